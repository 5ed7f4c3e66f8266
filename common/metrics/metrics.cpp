#include "common/metrics/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "common/base/mutex.h"
#include "common/metrics/http_endpoint.h"

namespace mf {
namespace {

enum class Kind { kCounter, kGauge, kHistogram };

struct Description {
  Metric metric;
  Kind kind;
  const char* name;
  std::array<const char*, 3> labels;  // nullptr: no more
  const char* who;
  const char* help;
};

/// All metrics. `who` exports them: worker, pserver (every server), server 0 (the one of shard 0).
constexpr std::array<Description, kMetricCount> kMetrics = {{
    {Metric::kStep, Kind::kGauge, "mf_step", {}, "both", "Last finished step"},
    {Metric::kRunSteps, Kind::kGauge, "mf_run_steps", {}, "both", "Steps of the whole run"},
    {Metric::kServers, Kind::kGauge, "mf_servers", {}, "both", "Parameter servers of the run"},
    {Metric::kTrainLoss,
     Kind::kGauge,
     "mf_train_loss",
     {},
     "worker",
     "Mean loss of the last finished step, nats per token"},
    {Metric::kTrainValLoss,
     Kind::kGauge,
     "mf_train_val_loss",
     {},
     "worker",
     "Mean loss of held-out text at the last evaluation, nats per token"},
    {Metric::kTrainLearningRate,
     Kind::kGauge,
     "mf_train_learning_rate",
     {},
     "worker",
     "Learning rate of the last finished step"},
    {Metric::kTrainGradNorm,
     Kind::kGauge,
     "mf_train_grad_norm",
     {},
     "worker",
     "Norm of the last finished step's gradient before clipping"},
    {Metric::kTrainTokens,
     Kind::kCounter,
     "mf_train_tokens_total",
     {},
     "worker",
     "Tokens of the steps that finished while this worker was there, whoever did them; steps done "
     "again count once"},
    {Metric::kDeviceBytes,
     Kind::kGauge,
     "mf_device_bytes",
     {},
     "worker",
     "Memory of its GPU that this worker has taken; workers on CPUs do not tell it"},
    {Metric::kStepSeconds,
     Kind::kHistogram,
     "mf_step_seconds",
     {"phase"},
     "server 0",
     "Time a step spent in a phase of the work queue: micro_batches, commit, evaluate, "
     "recover"},
    {Metric::kRequestSeconds,
     Kind::kHistogram,
     "mf_request_seconds",
     {"op"},
     "both",
     "worker: from a request to the last server's reply; pserver: from taking a request in to its "
     "reply, without requests for work that wait until there is some"},
    {Metric::kWireBytes,
     Kind::kCounter,
     "mf_wire_bytes_total",
     {"op", "direction"},
     "both",
     "Bytes of message frames, sent and received"},
    {Metric::kRequestsRejected,
     Kind::kCounter,
     "mf_requests_rejected_total",
     {"reason"},
     "pserver",
     "Requests that were refused; malformed: the message did not parse; stale, not_yet and "
     "wrong_epoch are normal after faults"},
    {Metric::kConnectionsRefused,
     Kind::kCounter,
     "mf_connections_refused_total",
     {"reason"},
     "pserver",
     "Connections that were not admitted; descriptors: no room for more open files; to a server "
     "with keys also unknown_key: not on the list of clients; handshake: without keys, for another "
     "server's key, or no ZeroMQ"},
    {Metric::kRepliesUnsent,
     Kind::kCounter,
     "mf_replies_unsent_total",
     {},
     "pserver",
     "Replies to peers that are gone"},
    {Metric::kTableRows,
     Kind::kGauge,
     "mf_table_rows",
     {"layer"},
     "pserver",
     "Rows that were ever updated, the same on every server; layer = dense: of all dense tensors"},
    {Metric::kKeyedRows,
     Kind::kGauge,
     "mf_keyed_rows",
     {"layer"},
     "pserver",
     "Rows of a keyed table on this server; those of all servers are its rows"},
    {Metric::kKeysWaiting,
     Kind::kGauge,
     "mf_keys_waiting",
     {"layer"},
     "pserver",
     "Keys of a keyed table that were hit and have no row yet, on this server"},
    {Metric::kKeysAdmitted,
     Kind::kCounter,
     "mf_keys_admitted_total",
     {"layer"},
     "pserver",
     "Keys that were given a row after they had waited for it, on this server"},
    {Metric::kRowsExpired,
     Kind::kCounter,
     "mf_rows_expired_total",
     {"layer"},
     "pserver",
     "Rows that were dropped because no step hit them for long, on this server"},
    {Metric::kTableBytes,
     Kind::kGauge,
     "mf_table_bytes",
     {"layer"},
     "pserver",
     "Memory of the rows' state and of the open step's gradients on this server"},
    {Metric::kBucketHits,
     Kind::kCounter,
     "mf_bucket_hits_total",
     {"layer"},
     "server 0",
     "Rows read by training contributions, each counted once"},
    {Metric::kBucketCoverage,
     Kind::kGauge,
     "mf_bucket_coverage_ratio",
     {"layer", "stat"},
     "server 0",
     "Share of a table's rows hit in the last 100 steps; mean and worst table"},
    {Metric::kBucketEntropy,
     Kind::kGauge,
     "mf_bucket_entropy_ratio",
     {"layer", "stat"},
     "server 0",
     "Entropy of a table's hits / ln(rows), 1 is uniform; mean and worst table"},
    {Metric::kBucketTop1,
     Kind::kGauge,
     "mf_bucket_top1_ratio",
     {"layer", "stat"},
     "server 0",
     "Share of a table's hits that its most popular row took; mean and worst table"},
    {Metric::kBucketDead,
     Kind::kGauge,
     "mf_bucket_dead",
     {"layer", "stat"},
     "server 0",
     "Rows of a table not hit since the servers started or went back; mean and worst table"},
    {Metric::kBucketBinHits,
     Kind::kCounter,
     "mf_bucket_bin_hits_total",
     {"layer", "table", "bin"},
     "server 0",
     "Hits by 64 bins of the bucket number, first and last table (the paper's figure 4)"},
    {Metric::kWorkersLive,
     Kind::kGauge,
     "mf_workers_live",
     {},
     "server 0",
     "Workers heard of within train.lease_seconds"},
    {Metric::kLeaseExpired,
     Kind::kCounter,
     "mf_lease_expired_total",
     {},
     "server 0",
     "Leases that ended before the work was handed in"},
    {Metric::kRecoveries,
     Kind::kCounter,
     "mf_recoveries_total",
     {},
     "pserver",
     "Rollbacks to a common step; the first one is the start of the run"},
    {Metric::kStepsDropped,
     Kind::kCounter,
     "mf_steps_dropped_total",
     {},
     "pserver",
     "Steps that changed no parameter as a gradient was not finite"},
    {Metric::kSnapshotSeconds,
     Kind::kHistogram,
     "mf_snapshot_seconds",
     {},
     "pserver",
     "From the end of a step to the publication of its snapshot, training going on"},
    {Metric::kSnapshotBytes,
     Kind::kGauge,
     "mf_snapshot_bytes",
     {},
     "pserver",
     "Bytes written for the last published snapshot, without background merges"},
    {Metric::kSnapshotLastStep,
     Kind::kGauge,
     "mf_snapshot_last_step",
     {},
     "pserver",
     "Step of the newest snapshot that this server published or loaded"},
    {Metric::kSnapshotFailures,
     Kind::kCounter,
     "mf_snapshot_failures_total",
     {},
     "pserver",
     "Snapshots that could not be written; the log says why"},
    {Metric::kSnapshotAge,
     Kind::kGauge,
     "mf_snapshot_age_seconds",
     {},
     "pserver",
     "Time since this server last published or loaded a snapshot, or began the run"},
    {Metric::kDataFree,
     Kind::kGauge,
     "mf_data_free_bytes",
     {},
     "pserver",
     "Free space of the disk that holds --data"},
    {Metric::kDataSize,
     Kind::kGauge,
     "mf_data_size_bytes",
     {},
     "pserver",
     "Size of the disk that holds --data"},
    {Metric::kDataBusy,
     Kind::kGauge,
     "mf_data_busy_seconds",
     {},
     "pserver",
     "For how long the disk that holds --data has not answered; 0: it does"},
}};

constexpr bool InOrder() {
  for (size_t i = 0; i < kMetrics.size(); ++i) {
    if (kMetrics[i].metric != static_cast<Metric>(i)) return false;
  }
  return true;
}
static_assert(InOrder(), "kMetrics stands in the order of enum Metric");

const char* KindName(Kind kind) {
  return kind == Kind::kCounter ? "counter" : kind == Kind::kGauge ? "gauge" : "histogram";
}

/// 100 us to 100 s, three to a decade: from a small inproc request to a deadline.
prometheus::Histogram::BucketBoundaries TimeBuckets() {
  return {1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1,
          0.2,  0.5,  1,    2,    5,    10,   20,   50,   100};
}

prometheus::Labels NamedLabels(const Description& description, Metrics::Labels values) {
  prometheus::Labels labels;
  size_t i = 0;
  for (const std::string_view value : values) labels[description.labels[i++]] = value;
  MF_CHECK(i == description.labels.size() || description.labels[i] == nullptr);
  return labels;
}

struct LabelsLess {
  using is_transparent = void;
  template <class A, class B>
  bool operator()(const A& a, const B& b) const {
    return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end());
  }
};

/// A metric's series by the values of their labels. The library makes labels and a series anew
/// before it looks for one, which takes memory for every number told; here they are found first.
template <class T>
class SeriesOf {
 public:
  void Register(prometheus::Family<T>& family) { family_ = &family; }
  /// Made by the first call. A family without a series is not exported, so each program shows only
  /// what it has.
  template <class... Args>
  T& Get(const Description& description, Metrics::Labels labels, const Args&... args) {
    MF_CHECK(family_ != nullptr);
    MutexLock lock(mutex_);
    auto known = known_.find(labels);
    if (known == known_.end()) {
      T& series = family_->Add(NamedLabels(description, labels), args...);
      known = known_.emplace(std::vector<std::string>(labels.begin(), labels.end()), &series).first;
    }
    return *known->second;
  }
  void RemoveAll() {
    MutexLock lock(mutex_);
    for (const auto& [labels, series] : known_) family_->Remove(series);
    known_.clear();
  }

 private:
  prometheus::Family<T>* family_ = nullptr;
  Mutex mutex_;
  std::map<std::vector<std::string>, T*, LabelsLess> known_ MF_GUARDED_BY(mutex_);
};

}  // namespace

struct Metrics::State {
  State() {
    for (size_t i = 0; i < kMetrics.size(); ++i) {
      const auto& [metric, kind, name, labels, who, help] = kMetrics[i];
      switch (kind) {
        case Kind::kCounter:
          counters[i].Register(prometheus::BuildCounter().Name(name).Help(help).Register(registry));
          break;
        case Kind::kGauge:
          gauges[i].Register(prometheus::BuildGauge().Name(name).Help(help).Register(registry));
          break;
        case Kind::kHistogram:
          histograms[i].Register(
              prometheus::BuildHistogram().Name(name).Help(help).Register(registry));
      }
    }
  }
  prometheus::Counter& counter(Metric metric, Labels labels) {
    const size_t i = static_cast<size_t>(metric);
    return counters[i].Get(kMetrics[i], labels);
  }
  prometheus::Gauge& gauge(Metric metric, Labels labels) {
    const size_t i = static_cast<size_t>(metric);
    return gauges[i].Get(kMetrics[i], labels);
  }

  prometheus::Registry registry;
  std::array<SeriesOf<prometheus::Counter>, kMetricCount> counters;
  std::array<SeriesOf<prometheus::Gauge>, kMetricCount> gauges;
  std::array<SeriesOf<prometheus::Histogram>, kMetricCount> histograms;
  const prometheus::Histogram::BucketBoundaries time_buckets = TimeBuckets();
  Mutex health_mutex;
  std::string trouble MF_GUARDED_BY(health_mutex);
  std::optional<std::chrono::steady_clock::time_point> health_told MF_GUARDED_BY(health_mutex);
  std::unique_ptr<HttpEndpoint> endpoint;  // ends first: its pages use the others
};

Metrics::Metrics() : state_(std::make_unique<State>()) {}
Metrics::~Metrics() { state_->endpoint.reset(); }  // before what it reads

namespace {
/// A number that finds no memory is not told: what it is told of goes on.
template <class Tell>
void IfMemory(const Tell& tell) {
  try {
    tell();
  } catch (const std::bad_alloc&) {
  }
}
}  // namespace

void Metrics::Count(Metric metric, Labels labels, double by) {
  IfMemory([&] { state_->counter(metric, labels).Increment(by); });
}

void Metrics::Set(Metric metric, double value, Labels labels) {
  IfMemory([&] { state_->gauge(metric, labels).Set(value); });
}

void Metrics::Observe(Metric metric, double seconds, Labels labels) {
  const size_t i = static_cast<size_t>(metric);
  IfMemory([&] {
    state_->histograms[i].Get(kMetrics[i], labels, state_->time_buckets).Observe(seconds);
  });
}

void Metrics::Forget(Metric metric) {
  const size_t i = static_cast<size_t>(metric);
  if (kMetrics[i].kind == Kind::kCounter) state_->counters[i].RemoveAll();
  if (kMetrics[i].kind == Kind::kGauge) state_->gauges[i].RemoveAll();
}

void Metrics::AddWireBytes(std::string_view op, Direction direction, uint64_t bytes) {
  Count(Metric::kWireBytes, {op, direction == Direction::kSent ? "sent" : "received"},
        static_cast<double>(bytes));
}

void Metrics::ObserveRequest(std::string_view op, double seconds) {
  Observe(Metric::kRequestSeconds, seconds, {op});
}

Status Metrics::Serve(const std::string& address) {
  const auto health = [this] {
    const std::string trouble = Trouble();
    return trouble.empty() ? HttpReply{.text = "ok\n"} : HttpReply{503, trouble + "\n"};
  };
  auto endpoint = HttpEndpoint::Serve(
      address, {{"/metrics", [this] { return HttpReply{.text = Text()}; }}, {"/health", health}});
  if (!endpoint.ok()) {
    return Status::Invalid(endpoint.status().message() +
                           "; give a free HOST:PORT, or port 0 for any");
  }
  state_->endpoint = std::move(endpoint).value();
  return Status::Ok();
}

std::string Metrics::address() const {
  return state_->endpoint == nullptr ? "" : state_->endpoint->address();
}

void Metrics::SetHealth(std::string trouble) {
  MutexLock lock(state_->health_mutex);
  state_->trouble = std::move(trouble);
  state_->health_told = std::chrono::steady_clock::now();
}

std::string Metrics::Trouble() const {
  MutexLock lock(state_->health_mutex);
  if (!state_->health_told.has_value()) return "";
  const std::chrono::duration<double> silent =
      std::chrono::steady_clock::now() - *state_->health_told;
  if (silent.count() < kHealthSilence) return state_->trouble;
  return "requests have not been answered for " + std::to_string(static_cast<int>(silent.count())) +
         " s";
}

double Metrics::Value(Metric metric, Labels labels) const {
  // A read may make an empty series, which reads as 0.
  const bool counts = kMetrics[static_cast<size_t>(metric)].kind == Kind::kCounter;
  return counts ? state_->counter(metric, labels).Value() : state_->gauge(metric, labels).Value();
}

std::string Metrics::Text() const {
  return prometheus::TextSerializer().Serialize(state_->registry.Collect());
}

std::string MetricsTableMarkdown() {
  std::string table = "| metric | type | labels | exported by | meaning |\n|---|---|---|---|---|\n";
  for (const Description& d : kMetrics) {
    std::string labels;
    for (const char* label : d.labels) {
      if (label != nullptr) labels += (labels.empty() ? "`" : ", `") + std::string(label) + "`";
    }
    table += "| `" + std::string(d.name) + "` | " + KindName(d.kind) + " | " + labels + " | " +
             d.who + " | " + d.help + " |\n";
  }
  return table;
}

}  // namespace mf
