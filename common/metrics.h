// The process's metrics (DESIGN 7). One object, made by main and handed to whom it concerns; the
// Prometheus library is seen in metrics.cpp only. All methods may be called by any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "common/status.h"

namespace mf {

enum class Direction { kSent, kReceived };

class Metrics {
 public:
  Metrics();
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  /// mf_wire_bytes_total{op, direction = sent|received}
  void AddWireBytes(const std::string& op, Direction direction, uint64_t bytes);
  /// mf_requests_rejected_total{reason}
  void AddRejected(const std::string& reason);
  /// mf_request_seconds{op}, a histogram
  void ObserveRequest(const std::string& op, double seconds);

  /// mf_step, mf_train_loss, mf_train_tokens_total: a training step of `tokens` tokens has ended.
  void StepEnded(uint64_t step, double loss, uint64_t tokens);

  /// Serves GET /metrics on "host:port" (port 0: any) until destroyed. kInvalid if it can not
  /// listen there. Call once.
  Status Serve(const std::string& address);
  /// The port Serve() listens on.
  int port() const;

  /// The counters read back; 0 if nothing was added.
  uint64_t WireBytes(const std::string& op, Direction direction) const;
  uint64_t Rejected(const std::string& reason) const;

  /// Everything in the Prometheus text format.
  std::string Text() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace mf
