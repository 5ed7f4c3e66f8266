#include "worker/train/train_run.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <thread>

#include "common/base/files.h"
#include "common/base/logging.h"
#include "common/base/machine_limits.h"
#include "common/base/mutex.h"
#include "common/client/client.h"
#include "common/metrics/metrics.h"
#include "worker/config/tensors.h"
#include "worker/data/data.h"
#include "worker/embedded/embedded.h"
#include "worker/exchange/exchange_report.h"
#include "worker/train/report.h"
#include "worker/train/trainer.h"

namespace mf {
namespace {

std::atomic<bool> g_stop{false};

/// --out can be written, and holds no run if it must not.
Status CheckOutputFolder(const TrainOptions& options) {
  const std::filesystem::path out = options.out;
  std::error_code error;
  if (options.fresh) {
    for (const auto& made : {out / "metrics.jsonl", out / "state"}) {
      if (!std::filesystem::exists(made, error)) continue;
      return Status::Invalid(options.out + ": --fresh, but a run has left " +
                             made.filename().string() + " there; name another --out or delete it");
    }
  }
  std::filesystem::create_directories(out, error);
  if (!error && access(out.c_str(), W_OK) == 0) return Status::Ok();
  return Status::Invalid(options.out + ": cannot make or write this folder" +
                         (error ? ": " + error.message() : "") + "; give another --out");
}

/// Once the servers have agreed to the run: what an earlier start left in --out is gone on with if
/// it is of the same run.
Status AdoptOutputFolder(const TrainOptions& options, const std::string& run_id) {
  const std::filesystem::path out = options.out;
  std::string held;
  std::ifstream(out / "run") >> held;
  if (held == run_id) return Status::Ok();
  std::error_code error;
  std::filesystem::remove(out / "metrics.jsonl", error);  // another run's lines
  return PublishFile((out / "run").string(), run_id + "\n");
}

/// What exact updates of sparse rows will cost: how many steps a row waits between hits (DESIGN 3).
void LogRowGaps(const RunDescription& run) {
  const double tokens = static_cast<double>(run.rules.tokens_per_step());
  double worst = 0;
  std::string name;
  for (const TensorSpec& tensor : run.tensors) {
    if (tensor.kind != TensorKind::kMemory) continue;
    if (tensor.optimizer.sparse_update != SparseUpdate::kExact) continue;
    const double reads = tokens * static_cast<double>(tensor.probes);
    const double gap = 1 / -std::expm1(-reads / static_cast<double>(tensor.rows));
    if (gap > worst) {
      worst = gap;
      name = tensor.name;
    }
  }
  if (worst > 0) {
    spdlog::info(
        "sparse_update = exact: a row of {} is hit about every {:.1f} steps if buckets are even",
        name, worst);
  }
}

/// Ends the trainer when a signal asked for it.
class SignalWatcher {
 public:
  explicit SignalWatcher(Trainer& trainer)
      : thread_([this, &trainer] {
          MutexLock lock(mutex_);
          while (!done_) {
            wake_.WaitFor(mutex_, std::chrono::milliseconds(100));
            if (g_stop.load()) trainer.Stop();
          }
        }) {}
  ~SignalWatcher() {
    {
      MutexLock lock(mutex_);
      done_ = true;
    }
    wake_.NotifyAll();
    thread_.join();
  }

 private:
  Mutex mutex_;
  ConditionVariable wake_;
  bool done_ MF_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

void Summarise(const Client& client, const Trainer& trainer, double seconds,
               TrainSummary* summary) {
  if (summary == nullptr) return;
  const Traffic& forward = client.traffic(Op::kForward);
  const Traffic& backward = client.traffic(Op::kBackward);
  *summary = {.micro_batches = static_cast<uint64_t>(trainer.micro_batches_done()),
              .forward_calls = forward.calls.load(),
              .backward_calls = backward.calls.load(),
              .forward_sent = forward.sent_bytes.load(),
              .forward_received = forward.received_bytes.load(),
              .backward_sent = backward.sent_bytes.load(),
              .backward_received = backward.received_bytes.load(),
              .resends = client.resends(),
              .seconds = seconds};
}

/// Brings every step to the metrics and to the report in --out.
class StepObserver {
 public:
  /// All outlive it.
  StepObserver(const RunDescription& run, const Compute& compute, Metrics& metrics)
      : tokens_per_step_(run.rules.tokens_per_step()), compute_(compute), metrics_(metrics) {}

  void SetReport(RunReport* report) { report_ = report; }

  Status Observe(const StepRecord& record) {
    StepReport line;
    line.step = static_cast<int64_t>(record.step);
    line.loss = record.loss;
    line.lr = record.lr;
    line.grad_norm = record.grad_norm;
    line.tokens = line.step * tokens_per_step_;
    const auto now = Clock::now();
    line.tokens_per_second =
        static_cast<double>(tokens_per_step_) / std::chrono::duration<double>(now - last_).count();
    last_ = now;
    line.dropped = record.dropped;
    if (record.has_val_loss && std::isfinite(record.val_loss)) line.val_loss = record.val_loss;
    SetMetrics(record);
    return report_->Step(line);
  }

 private:
  using Clock = std::chrono::steady_clock;
  void SetMetrics(const StepRecord& record) {
    metrics_.Set(Metric::kStep, static_cast<double>(record.step));
    metrics_.Set(Metric::kTrainLoss, record.loss);
    metrics_.Set(Metric::kTrainLearningRate, record.lr);
    metrics_.Set(Metric::kTrainGradNorm, record.grad_norm);
    if (compute_.device_bytes() > 0) {
      metrics_.Set(Metric::kDeviceBytes, static_cast<double>(compute_.device_bytes()));
    }
    if (record.has_val_loss) metrics_.Set(Metric::kTrainValLoss, record.val_loss);
    // After a rollback all steps are told once more.
    if (record.step > furthest_) {
      metrics_.Count(Metric::kTrainTokens, {}, static_cast<double>(tokens_per_step_));
    }
    furthest_ = std::max(furthest_, record.step);
  }

  const int64_t tokens_per_step_;
  const Compute& compute_;
  Metrics& metrics_;
  RunReport* report_ = nullptr;
  uint64_t furthest_ = 0;
  Clock::time_point last_ = Clock::now();
};

/// The servers of the run, embedded or elsewhere, and the client that talks to them.
struct Servers {
  TransportContext context;
  std::unique_ptr<EmbeddedServers> embedded;
  std::unique_ptr<Client> client;
};

Status Connect(const TrainOptions& options, const ClientKeys* keys, Metrics& metrics,
               Servers* servers) {
  std::vector<std::string> addresses = options.pservers;
  if (addresses.empty()) {
    EmbeddedServers::Options embedded{.shards = options.shards,
                                      .threads = options.server_threads,
                                      .memory_bytes = options.memory_bytes,
                                      .data = options.out + "/state",
                                      .metrics = &metrics};
    if (embedded.memory_bytes == 0) embedded.memory_bytes = DefaultTableBytes();
    MF_ASSIGN_OR_RETURN(servers->embedded, EmbeddedServers::Start(servers->context, embedded));
    addresses = servers->embedded->addresses();
  }
  MF_ASSIGN_OR_RETURN(auto transport, ConnectZmq(servers->context, addresses, keys));
  if (options.wrap_transport) transport = options.wrap_transport(std::move(transport));
  Client::Options client;
  client.deadline_seconds = options.config.exchange.deadline_seconds;
  client.metrics = &metrics;
  if (options.resend_seconds > 0) client.resend_seconds = options.resend_seconds;
  servers->client = std::make_unique<Client>(std::move(transport), addresses, client);
  return Status::Ok();
}

/// What could fail after hours is tried before anything of an earlier run is touched.
Status CheckPlaces(const TrainOptions& options, Metrics& metrics) {
  if (!options.metrics_address.empty()) {
    MF_RETURN_IF_ERROR(metrics.Serve(options.metrics_address));
    spdlog::info("metrics on {}", metrics.address());
  }
  if (!options.export_path.empty()) {
    MF_RETURN_IF_ERROR(CheckExportPlace("--export", options.export_path));
  }
  return CheckOutputFolder(options);
}

/// From the first piece of work to the last.
Status TrainAndReport(Trainer& trainer, const Client& client, RunReport& report,
                      TrainSummary* summary) {
  const auto start = std::chrono::steady_clock::now();
  Status status;
  {
    SignalWatcher watch(trainer);
    status = trainer.Run();
  }
  if (!status.ok()) {
    (void)report.Finish();  // what was learned before the failure is worth a plot
    return status;
  }
  spdlog::info("did {} micro-batches; {} requests were sent again", trainer.micro_batches_done(),
               client.resends());
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  Summarise(client, trainer, seconds.count(), summary);
  MF_RETURN_IF_ERROR(report.Finish());
  if (trainer.finished().epoch != 0) return Status::Ok();
  return Status::Failed("stopped by a signal before the last step");
}

}  // namespace

void RequestStop() { g_stop.store(true); }
bool StopRequested() { return g_stop.load(); }

Status Train(const TrainOptions& options, TrainSummary* summary) {
  const Config& config = options.config;
  const size_t shards =
      options.pservers.empty() ? static_cast<size_t>(options.shards) : options.pservers.size();
  ClientKeys keys;
  if (!options.keys.empty()) {
    MF_ASSIGN_OR_RETURN(keys, LoadClientKeys(options.keys));
  }
  MF_ASSIGN_OR_RETURN(const auto data, TokenSource::Open(config, options.data, options.validation));
  const RunDescription run = DescribeRun(config, data->Digest());
  MF_RETURN_IF_ERROR(run.Check());
  MF_RETURN_IF_ERROR(CheckShards(run, static_cast<int64_t>(shards)));
  Metrics metrics;
  MF_RETURN_IF_ERROR(CheckPlaces(options, metrics));
  ThreadPool pool(options.threads);
  MF_ASSIGN_OR_RETURN(const std::unique_ptr<Compute> compute,
                      options.make_compute
                          ? options.make_compute(config, run.tensors)
                          : MakeCompute(options.backend, config, run.tensors, pool));
  spdlog::info("computes on: {}", compute->Describe());
  LogRowGaps(run);
  for (const std::string& line : DescribeExchange(config, run.tensors)) spdlog::info(line);
  Servers servers;
  MF_RETURN_IF_ERROR(Connect(options, options.keys.empty() ? nullptr : &keys, metrics, &servers));
  metrics.Set(Metric::kRunSteps, static_cast<double>(config.train.steps));
  metrics.Set(Metric::kServers, static_cast<double>(shards));

  StepObserver observer(run, *compute, metrics);
  Trainer trainer(config, run, *data, *servers.client, *compute, pool,
                  {.on_step = [&](const StepRecord& record) { return observer.Observe(record); }});
  {
    SignalWatcher watch(trainer);  // servers may have to put another run away first
    MF_RETURN_IF_ERROR(trainer.Join());
  }
  MF_RETURN_IF_ERROR(AdoptOutputFolder(options, run.RunId()));
  MF_ASSIGN_OR_RETURN(
      const std::unique_ptr<RunReport> report,
      RunReport::Open(
          {.out = options.out, .steps = config.train.steps, .progress = options.progress}));
  observer.SetReport(report.get());
  MF_RETURN_IF_ERROR(TrainAndReport(trainer, *servers.client, *report, summary));
  if (options.export_path.empty()) return Status::Ok();
  return Export(trainer.tables(), config, run.tensors, trainer.finished(), options.export_rows,
                options.export_path);
}

}  // namespace mf
