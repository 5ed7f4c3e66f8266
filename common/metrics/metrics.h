// The process's metrics (DESIGN 7). One object, made by main and handed to whom it concerns; the
// Prometheus library is seen in metrics.cpp only, where one table says of every metric what it is.
// All methods may be called by any thread.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>

#include "common/base/status.h"

namespace mf {

enum class Metric {
  kStep,
  kRunSteps,
  kServers,
  kTrainLoss,
  kTrainValLoss,
  kTrainLearningRate,
  kTrainGradNorm,
  kTrainTokens,
  kDeviceBytes,
  kStepSeconds,
  kRequestSeconds,
  kWireBytes,
  kRequestsRejected,
  kConnectionsRefused,
  kRepliesUnsent,
  kTableRows,
  kKeyedRows,
  kKeysWaiting,
  kKeysAdmitted,
  kRowsExpired,
  kTableBytes,
  kBucketHits,
  kBucketCoverage,
  kBucketEntropy,
  kBucketTop1,
  kBucketDead,
  kBucketBinHits,
  kWorkersLive,
  kLeaseExpired,
  kRecoveries,
  kStepsDropped,
  kSnapshotSeconds,
  kSnapshotBytes,
  kSnapshotLastStep,
  kSnapshotFailures,
  kSnapshotAge,
  kDataFree,
  kDataSize,
  kDataBusy,
};
inline constexpr int kMetricCount = 39;

enum class Direction { kSent, kReceived };

class Metrics {
 public:
  /// The values of a metric's labels, in the order of the table in metrics.cpp.
  using Labels = std::initializer_list<std::string_view>;

  Metrics();
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  /// A counter grows by `by`, which is not negative; 0 makes the series appear.
  void Count(Metric metric, Labels labels = {}, double by = 1);
  /// A gauge.
  void Set(Metric metric, double value, Labels labels = {});
  /// A histogram of times.
  void Observe(Metric metric, double seconds, Labels labels = {});

  /// All series of a counter or gauge, as if it had never been told. Nobody tells it meanwhile.
  void Forget(Metric metric);

  /// mf_wire_bytes_total{op, direction = sent|received}
  void AddWireBytes(std::string_view op, Direction direction, uint64_t bytes);
  /// mf_request_seconds{op}
  void ObserveRequest(std::string_view op, double seconds);

  /// What GET /health says from now on: "" is well (200), else 503 with this. Who told it once
  /// tells it again and again: a silence of kHealthSilence is not well either. Untold, it is well.
  void SetHealth(std::string trouble);
  static constexpr double kHealthSilence = 10;  // seconds

  /// Serves GET /metrics and /health on "host:port" (port 0: any) until destroyed. kInvalid if it
  /// cannot listen there. Call once.
  Status Serve(const std::string& address);
  /// "host:port" that Serve() listens on.
  std::string address() const;

  /// A counter or gauge read back; 0 if it was never touched.
  double Value(Metric metric, Labels labels = {}) const;
  /// What SetHealth() told, or that it was not told of late; "": well.
  std::string Trouble() const;
  /// Everything in the Prometheus text format.
  std::string Text() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// One row per metric: name, type, labels, meaning; docs/METRICS.md holds the same.
std::string MetricsTableMarkdown();

}  // namespace mf
