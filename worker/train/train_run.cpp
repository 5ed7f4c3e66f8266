#include "worker/train/train_run.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <thread>

#include "common/base/file_lock.h"
#include "common/base/files.h"
#include "common/base/logging.h"
#include "common/base/machine_limits.h"
#include "common/base/mutex.h"
#include "common/client/client.h"
#include "common/client/save_step.h"
#include "common/client/snapshot_plan.h"
#include "common/client/work_loop.h"
#include "common/metrics/metrics.h"
#include "worker/config/tensors.h"
#include "worker/data/data.h"
#include "worker/data/run_tokenizer.h"
#include "worker/embedded/embedded.h"
#include "worker/exchange/exchange_report.h"
#include "worker/prepare/text_cache.h"
#include "worker/train/output_folder.h"
#include "worker/train/report.h"
#include "worker/train/trainer.h"

namespace mf {
namespace {

constexpr double kStoppingDeadlineSeconds = 5;

std::atomic<bool> g_stop{false};

constexpr const char* kOwnFiles[] = {"metrics.jsonl", "run", "run.json", "loss.svg", "lock"};

/// Of `out`.
Status CheckOwnFiles(const TrainOptions& options) {
  for (const char* name : kOwnFiles) {
    const std::string file = options.out + "/" + name;
    if (const Status kept = CheckReplaceable(file); !kept.ok())
      return Status::Invalid(kept.message() + "; give another --out");
    std::error_code error;
    const bool same_folder =
        !options.export_path.empty() &&
        std::filesystem::equivalent(FolderOf(options.export_path), options.out, error);
    const bool same = same_folder && std::filesystem::path(options.export_path).filename() == name;
    if (same || std::filesystem::equivalent(file, options.export_path, error)) {
      return Status::Invalid("--export " + options.export_path + ": the run itself writes " + file +
                             "; give another name");
    }
  }
  return Status::Ok();
}

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
  if (const Status made = MakeFolder(options.out); !made.ok())
    return Status::Invalid(made.message() + ", or give another --out");
  if (access(out.c_str(), W_OK) == 0) return Status::Ok();
  return Status::Invalid(options.out + ": cannot write this folder: " + std::strerror(errno) +
                         "; give another --out");
}

/// The data of the run; of a repetition only the same data.
Result<std::unique_ptr<TokenSource>> OpenData(const TrainOptions& options) {
  MF_ASSIGN_OR_RETURN(const auto tokenizer,
                      Tokenizer::Make(options.config.tokenizer, "the run's tokenizer"));
  const std::vector<OwnPlace> own = {{"--out", options.out}, {"--export", options.export_path}};
  const TextCache cache(options.out + "/cache", *tokenizer, options.config.data.binary,
                        options.threads);
  auto data =
      TokenSource::Open(options.config, options.data, options.validation,
                        {.out = options.out,
                         .export_path = options.export_path,
                         .ids_of = [&](const std::string& path) { return cache.Find(path, own); }});
  if (!options.repeat.has_value()) return data;
  if (data.ok()) {
    MF_RETURN_IF_ERROR(CheckSameData(*options.repeat, options.data, data.value()->Digest()));
    return data;
  }
  if (options.data != options.repeat->run.data) return data;
  return Status(data.status().code(), data.status().message() + " (the place is that of " +
                                          options.repeat->path +
                                          "; data that was moved is named by --data)");
}

/// Writes OUT/run.json when the worker begins, or when it ends if the disk was full before.
class RunFileWriter {
 public:
  RunFileWriter(const TrainOptions& options, const RunDescription& run, std::string data_digest,
                const Platform& platform)
      : path_(options.out + "/run.json"),
        file_{.config = options.config,
              .run_id = run.RunId(),
              .data = AbsolutePath(options.data),
              .validation = options.validation.empty() ? "" : AbsolutePath(options.validation),
              .data_digest = std::move(data_digest),
              .init = options.init.path.empty() ? "" : AbsolutePath(options.init.path),
              .keep_optimizer = options.init.keep_optimizer,
              .init_step = options.init.step,
              .platform = platform} {
    written_ = WriteRunFile(path_, file_);
    if (!written_.ok()) spdlog::warn("{}; the run goes on", written_.message());
  }
  ~RunFileWriter() {
    if (written_.ok()) return;
    written_ = WriteRunFile(path_, file_);
    if (written_.ok()) {
      spdlog::info("{}: written now", path_);
    } else {
      spdlog::warn("{}; the run cannot be repeated from it", written_.message());
    }
  }
  RunFileWriter(const RunFileWriter&) = delete;
  RunFileWriter& operator=(const RunFileWriter&) = delete;

 private:
  const std::string path_;
  const RunFile file_;
  Status written_;
};

std::string PartText(double part) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f%%", 100 * part);
  return text;
}

/// How much text there is, and how often the run reads it.
void LogData(const TokenSource& data, const RunDescription& run) {
  const double all =
      static_cast<double>(run.rules.tokens_per_step()) * static_cast<double>(run.rules.steps);
  const auto shares = data.shares();
  for (const TokenSource::Share& share : shares) {
    char epochs[32];
    std::snprintf(epochs, sizeof(epochs), "%.3g",
                  all * share.part / static_cast<double>(share.tokens_per_epoch));
    const std::string whose =
        shares.size() == 1 ? "" : share.path + ", " + PartText(share.part) + " of all: ";
    spdlog::info("{}{} tokens to train on; {} steps are {} epochs", whose, share.tokens,
                 run.rules.steps, epochs);
  }
  spdlog::info("{} tokens are held out", data.validation_tokens());
}

/// Tokens of an epoch; 0 where there are several corpora, each with epochs of its own.
int64_t OneEpoch(const TokenSource& data) {
  const auto shares = data.shares();
  return shares.size() == 1 ? shares[0].tokens_per_epoch : 0;
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

/// Ends the trainer when a signal asked for it. Servers that are silent are then not waited for as
/// long as else.
class SignalWatcher {
 public:
  SignalWatcher(Trainer& trainer, Client& client)
      : thread_([this, &trainer, &client] {
          MutexLock lock(mutex_);
          bool told = false;
          while (!done_) {
            wake_.WaitFor(mutex_, std::chrono::milliseconds(100));
            if (!g_stop.load() || std::exchange(told, true)) continue;
            spdlog::info("stopping; another signal ends at once");
            trainer.Stop();
            client.LimitDeadlines(kStoppingDeadlineSeconds);
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
      : tokens_per_step_(run.rules.tokens_per_step()), compute_(compute), metrics_(metrics) {
    metrics_.Count(Metric::kTrainTokens, {}, 0);
  }

  void SetReport(RunReport* report) { report_ = report; }

  Status Observe(const StepRecord& record) {
    told_.push_back(record);
    return Status::Ok();
  }
  /// Those that were observed since became known together.
  Status Told() {
    // After a rollback, or from another server 0, steps are told once more.
    const auto news = std::find_if(told_.begin(), told_.end(),
                                   [&](const StepRecord& r) { return r.step > furthest_; });
    const auto count = static_cast<uint64_t>(told_.end() - news);
    const double speed = clock_.Told(count == 0 ? 0 : news->step, count, tokens_per_step_,
                                     std::chrono::steady_clock::now());
    if (clock_.there()) {
      metrics_.Count(Metric::kTrainTokens, {},
                     static_cast<double>(tokens_per_step_) * static_cast<double>(count));
    }
    for (const StepRecord& record : told_) {
      Report(record, record.step > furthest_ ? speed : std::nan(""));
      furthest_ = std::max(furthest_, record.step);
    }
    const bool many = told_.size() > kManySteps;
    told_.clear();
    if (many) {
      told_.shrink_to_fit();
      GiveBackMemory();  // of messages that are seldom so long
    }
    return Status::Ok();
  }

 private:
  void Report(const StepRecord& record, double speed) {
    StepReport line;
    line.step = static_cast<int64_t>(record.step);
    line.loss = record.loss;
    line.lr = record.lr;
    line.grad_norm = record.grad_norm;
    line.tokens = line.step * tokens_per_step_;
    line.tokens_per_second = speed;
    line.dropped = record.dropped;
    if (record.has_val_loss && std::isfinite(record.val_loss)) line.val_loss = record.val_loss;
    SetMetrics(record);
    report_->Step(line);
  }
  void SetMetrics(const StepRecord& record) {
    metrics_.Set(Metric::kStep, static_cast<double>(record.step));
    metrics_.Set(Metric::kTrainLoss, record.loss);
    metrics_.Set(Metric::kTrainLearningRate, record.lr);
    metrics_.Set(Metric::kTrainGradNorm, record.grad_norm);
    if (compute_.device_bytes() > 0) {
      metrics_.Set(Metric::kDeviceBytes, static_cast<double>(compute_.device_bytes()));
    }
    if (record.has_val_loss) metrics_.Set(Metric::kTrainValLoss, record.val_loss);
  }

  static constexpr size_t kManySteps = 256;  // told together after a rollback, or to who comes late

  const int64_t tokens_per_step_;
  const Compute& compute_;
  Metrics& metrics_;
  RunReport* report_ = nullptr;
  StepClock clock_;
  std::vector<StepRecord> told_;
  uint64_t furthest_ = 0;
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
                                      .no_lock = options.no_lock,
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

Status CheckAllThreads(const TrainOptions& options) {
  // Of the pool, the lanes and each embedded server; and of libraries, leases, snapshots and so on.
  constexpr int kOthers = 12;
  const int servers = options.pservers.empty() ? options.shards : 0;
  return CheckThreads(options.threads + static_cast<int>(options.config.exchange.in_flight) +
                      servers * (options.server_threads + 2) + kOthers);
}

/// What could fail after hours is tried before anything of an earlier run is touched.
Status CheckPlaces(const TrainOptions& options, Metrics& metrics) {
  if (!options.metrics_address.empty()) {
    MF_RETURN_IF_ERROR(metrics.Serve(options.metrics_address));
    spdlog::info("metrics on {}", metrics.address());
  }
  MF_RETURN_IF_ERROR(CheckOutputFolder(options));
  MF_RETURN_IF_ERROR(CheckOwnFiles(options));
  if (options.export_path.empty()) return Status::Ok();
  return CheckExportPlace("--export", options.export_path, OutputKind::kModel);
}

/// The end of a run that was stopped before its last step.
Status LeaveRun(Trainer& trainer, double grace_seconds) {
  Result<Session::Left> left = trainer.Leave(grace_seconds);
  if (!left.ok()) {
    return Status::Failed("stopped, and the last finished step is not saved: " +
                          left.status().message() + "; the run goes on from the snapshot before");
  }
  if (!left->reached) {
    spdlog::warn("stopped; server 0 does not say what is saved: one that ends saves what it has");
  } else if (left->others > 0) {
    spdlog::info("stopped; the run goes on with {} other workers", left->others);
  } else if (left->saved > 0) {
    spdlog::info("stopped after step {}, which all servers have saved; the same command goes on",
                 left->saved);
  } else {
    spdlog::info("stopped; there is nothing to save");
  }
  return Status::Ok();
}

Status Join(const TrainOptions& options, const RunDescription& run, Trainer& trainer,
            Client& client) {
  if (options.repeat.has_value() && RunInOutputFolder(options.out) != run.RunId()) {
    MF_RETURN_IF_ERROR(CheckNotDone(*options.repeat, run, client));
  }
  return trainer.Join();
}

/// From the first piece of work to the last.
Status TrainAndReport(Trainer& trainer, Client& client, RunReport& report, double grace_seconds,
                      TrainSummary* summary) {
  const auto start = std::chrono::steady_clock::now();
  Status status;
  {
    SignalWatcher watch(trainer, client);
    status = trainer.Run();
  }
  const bool stopped = status.ok() && trainer.finished().epoch == 0;
  if (stopped) status = LeaveRun(trainer, grace_seconds);
  if (!status.ok()) {
    report.Finish();  // what was learned before the failure is worth a plot
    return status;
  }
  spdlog::info("did {} micro-batches; {} requests were sent again", trainer.micro_batches_done(),
               client.resends());
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  Summarise(client, trainer, seconds.count(), summary);
  if (summary != nullptr) summary->stopped = stopped;
  report.Finish();
  return Status::Ok();
}

/// The run itself is worth more than the file: where it is, and how to try again.
Status ExportFailed(const Status& failed, const TrainOptions& options, Client& client,
                    uint64_t step) {
  if (g_stop.load()) client.LimitDeadlines(1);  // it has waited already
  const std::string last = std::to_string(step);
  std::string kept = "its servers do not say what they have saved";
  const Client::Outcome replies =
      client.CallAll(std::vector<Request>(client.servers(), {.body = StatusRequest{}})).get();
  if (replies.ok()) {
    std::vector<SnapshotState> servers;
    bool writing = false;
    for (const Reply& reply : replies.value()) {
      servers.push_back(As<StatusReply>(reply).state.snapshots);
      writing |= servers.back().writing == step;
    }
    const std::vector<uint64_t> common = CommonSteps(servers);
    const uint64_t newest = common.empty() ? 0 : common.back();
    if (newest == step) {
      kept = "its snapshots have the last step, " + last;
    } else {
      kept = "the newest step that all servers have saved is " + std::to_string(newest) +
             (writing ? ", the last, " + last + ", is being written" : "");
    }
  }
  const std::string from =
      options.pservers.empty() ? options.out + "/state" : "FOLDER_OF_THE_SERVERS";
  return Status::Failed("--export: " + failed.message() + "; the run itself is finished: " + kept +
                        "; to export it elsewhere: worker export --from " + from + " --out FILE");
}

/// Servers inside the process end with it: the last step is to be on the disk before.
Status SaveTheEnd(const RunDescription& run, Client& client) {
  if (!run.rules.snapshots.on()) return Status::Ok();
  constexpr double kPatience = 24 * 3600;  // a signal ends the wait
  const uint64_t step = static_cast<uint64_t>(run.rules.steps);
  const Status saved = SaveStep(client, step, kPatience);
  if (saved.ok() || g_stop.load()) return saved;
  return Status::Failed("the run has finished, but its last step, " + std::to_string(step) +
                        ", is not saved: " + saved.message() +
                        "; free the disk of --out, and the same command computes it again");
}

}  // namespace

void RequestStop() { g_stop.store(true); }
bool StopRequested() { return g_stop.load(); }

Status Train(const TrainOptions& given, TrainSummary* summary) {
  TrainOptions options = given;
  MF_RETURN_IF_ERROR(CheckAllThreads(options));
  ThreadPool pool(options.threads);
  if (options.init.step == 0) options.init.step = InitialStepIn(options.out, options.init);
  MF_ASSIGN_OR_RETURN(auto initial, InitialModel::Open(options.init, pool));
  if (initial != nullptr) {
    options.init.step = initial->step();
    initial->Adopt(&options.config);
  }
  MF_RETURN_IF_ERROR(ResolveTokenizer(options.data, &options.config));
  const Config& config = options.config;
  const size_t shards =
      options.pservers.empty() ? static_cast<size_t>(options.shards) : options.pservers.size();
  ClientKeys keys;
  if (!options.keys.empty()) {
    MF_ASSIGN_OR_RETURN(keys, LoadClientKeys(options.keys));
  }
  MF_ASSIGN_OR_RETURN(const auto data, OpenData(options));
  if (options.on_begin) options.on_begin();
  RunDescription described = DescribeRun(config, data->Digest());
  if (initial != nullptr) MF_RETURN_IF_ERROR(initial->Describe(config, &described));
  const RunDescription run = std::move(described);
  MF_RETURN_IF_ERROR(run.Check());
  MF_RETURN_IF_ERROR(CheckShards(run, static_cast<int64_t>(shards)));
  Metrics metrics;
  MF_RETURN_IF_ERROR(CheckPlaces(options, metrics));
  MF_ASSIGN_OR_RETURN(const FileLock lock, LockOutputFolder(options.out, "worker"));
  if (const Status kept = data->SaveDigests(); !kept.ok()) spdlog::warn("{}", kept.message());
  MF_ASSIGN_OR_RETURN(const std::unique_ptr<Compute> compute,
                      options.make_compute
                          ? options.make_compute(config, run.tensors)
                          : MakeCompute(options.backend, config, run.tensors, pool));
  spdlog::info("may use {}; computes on: {}", DescribeLimits(), compute->Describe());
  const Platform platform = ThisPlatform(compute->Describe());
  if (options.repeat.has_value()) {
    MF_RETURN_IF_ERROR(CheckSameRun(*options.repeat, platform, run.RunId()));
  }
  if (initial != nullptr) {
    for (const std::string& line : initial->Summary(config)) spdlog::info(line);
  }
  LogData(*data, run);
  LogRowGaps(run);
  for (const std::string& line : DescribeExchange(config, run.tensors)) spdlog::info(line);
  Servers servers;
  MF_RETURN_IF_ERROR(Connect(options, options.keys.empty() ? nullptr : &keys, metrics, &servers));
  metrics.Set(Metric::kRunSteps, static_cast<double>(config.train.steps));
  metrics.Set(Metric::kServers, static_cast<double>(shards));

  StepObserver observer(run, *compute, metrics);
  Trainer trainer(config, run, *data, *servers.client, *compute, pool,
                  {.on_step = [&](const StepRecord& record) { return observer.Observe(record); },
                   .on_told = [&] { return observer.Told(); }});
  {
    SignalWatcher watch(trainer,
                        *servers.client);  // servers may have to put another run away first
    Status joined = Join(options, run, trainer, *servers.client);
    if (joined.ok() && initial != nullptr) {
      joined = initial->Bring(*servers.client, run,
                              {.join = [&] { return trainer.Join(); }, .stopped = StopRequested});
    }
    if (!joined.ok() && g_stop.load()) {
      spdlog::info("stopped before it has joined: {}", joined.message());
      if (summary != nullptr) summary->stopped = true;
      return Status::Ok();
    }
    MF_RETURN_IF_ERROR(joined);
  }
  initial.reset();  // its memory is free before the training takes its own
  MF_RETURN_IF_ERROR(AdoptOutputFolder(options.out, run.RunId()));
  const RunFileWriter run_file(options, run, data->Digest(), platform);
  MF_ASSIGN_OR_RETURN(
      const std::unique_ptr<RunReport> report,
      RunReport::Open({.out = options.out,
                       .steps = config.train.steps,
                       .progress = options.progress,
                       .tokens_per_epoch = OneEpoch(*data),
                       .tokens_before = run.rules.steps_before * run.rules.tokens_per_step()}));
  observer.SetReport(report.get());
  constexpr int kTries = 10;
  for (int tries = 1;; ++tries) {
    MF_RETURN_IF_ERROR(
        TrainAndReport(trainer, *servers.client, *report, options.grace_seconds, summary));
    if (trainer.finished().epoch == 0) return Status::Ok();
    if (options.export_path.empty()) break;
    ServerTensors reader(trainer.tables(), trainer.finished());
    Status exported;
    {
      SignalWatcher watch(trainer, *servers.client);  // who ends does not wait for a server long
      exported = Export(reader, config, run.tensors, options.export_rows, options.export_path);
    }
    if (exported.ok()) break;
    if (g_stop.load() || tries == kTries || !IsSuperseded(exported.code()))
      return ExportFailed(exported, options, *servers.client, trainer.finished().step);
    // A server was restarted meanwhile: the state has to be brought back first.
    spdlog::warn("the export begins anew: {}", exported.message());
    MF_RETURN_IF_ERROR(trainer.Join());
  }
  return servers.embedded == nullptr ? Status::Ok() : SaveTheEnd(run, *servers.client);
}

}  // namespace mf
