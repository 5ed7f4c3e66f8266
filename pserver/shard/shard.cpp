#include "pserver/shard/shard.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <numeric>

#include "common/base/machine_limits.h"
#include "pserver/shard/shard_run.h"

namespace mf {
namespace {

constexpr size_t kWorkersMax = 65'536;
constexpr size_t kObserversMax = 256;

Status Bad(const std::string& what) { return Status::Invalid(what); }

/// Dense tensors are held whole: refused before the machine runs out of memory over them.
Status CheckDenseMemory(const RunDescription& run) {
  double bytes = 0;
  for (const TensorSpec& tensor : run.tensors) {
    if (tensor.kind != TensorKind::kDense) continue;
    const double planes = Optimizer(tensor).planes() + 1;  // and the gradient
    bytes += planes * sizeof(float) * static_cast<double>(tensor.total_rows()) *
             static_cast<double>(tensor.columns);
  }
  const double limit = static_cast<double>(MemoryLimitBytes());
  if (bytes <= limit) return Status::Ok();
  return Bad("the dense tensors of this run need " + std::to_string(bytes / 1e9) +
             " GB, this server's machine has " + std::to_string(limit / 1e9) + " GB");
}

}  // namespace

Status AnotherTrainingThere(const std::string& there, const RunDescription& here) {
  const Result<RunDescription> run = RunDescription::FromJson(there);
  return {Code::kWrongRun,
          "this server's folder holds another training: " +
              (run.ok() ? DescribeDifference(run.value(), here) : run.status().message()) +
              "; use the same --config, --set and --data to go on with it, or a folder of its own"};
}

Status CheckFits(const RunDescription& run, uint32_t shards) {
  MF_RETURN_IF_ERROR(CheckShards(run, shards));
  return CheckDenseMemory(run);
}

Status Shard::CheckAddressee(const HelloRequest& hello, const Options& options) {
  if (hello.protocol != kProtocolVersion) {
    return Bad("protocol " + std::to_string(hello.protocol) + ", this server speaks " +
               std::to_string(kProtocolVersion));
  }
  if (hello.shard == options.shard && hello.shards == options.shards) return Status::Ok();
  return Bad("asked for shard " + std::to_string(hello.shard) + " of " +
             std::to_string(hello.shards) + ", this is shard " + std::to_string(options.shard) +
             " of " + std::to_string(options.shards));
}

Shard::Shard(const Options& options, ThreadPool& pool, Send send)
    : options_(options),
      pool_(pool),
      send_(std::move(send)),
      monitor_(options.metrics),
      workers_(kWorkersMax),
      observers_(kObserversMax) {
  if (options.store == nullptr) return;
  MF_CHECK(options.writer != nullptr);
  snapshots_ = std::make_unique<Snapshots>(*options.store, *options.writer, options.metrics);
}

Shard::~Shard() { snapshots_.reset(); }  // before the tables that it reads

void Shard::Handle(const std::string& peer, const Request& request, double now) {
  Call call{.peer = peer, .request = request, .now = now};
  Status status;
  try {
    status = Dispatch(call);
  } catch (const std::bad_alloc&) {
    status = Status::Failed(
        std::string(OpName(request.op())) +
        ": the server has not enough memory for it; use more servers or a smaller model");
  }
  if (!status.ok() || !call.answered) Answer(call, status);
}

void Shard::Answer(Call& call, const Status& status) {
  Reply& reply = call.reply;
  if (!status.ok()) {
    reply = Reply();
    reply.code = status.code();
    reply.message = status.message();
    if (options_.metrics != nullptr) {
      options_.metrics->Count(Metric::kRequestsRejected, {CodeName(status.code())});
    }
  }
  reply.op = call.request.op();
  reply.id = call.request.id;
  reply.incarnation = options_.incarnation;
  send_(call.peer, std::move(reply));
  call.answered = true;
}

Status Shard::Dispatch(Call& call) {
  const Op op = call.request.op();
  const uint64_t session = call.request.session;
  if (observers_.contains(session)) {
    if (op != Op::kHello && op != Op::kStatus && op != Op::kBuckets) {
      return Bad(std::string(OpName(op)) + " from an observer");
    }
  } else if (op != Op::kHello && !workers_.contains(session)) {
    return {Code::kNotJoined, std::string(OpName(op)) + " without a joined session; say hello"};
  }
  MF_CHECK(op == Op::kHello || run_ != nullptr);
  return std::visit([&](const auto& body) { return Do(body, call); }, call.request.body);
}

Status Shard::Do(const HelloRequest& hello, Call& call) {
  MF_RETURN_IF_ERROR(CheckAddressee(hello, options_));
  const bool observer = hello.description.empty();
  if (observer) {
    if (run_ == nullptr) return {Code::kUnavailable, "no training has begun on this server"};
  } else {
    MF_ASSIGN_OR_RETURN(RunDescription run, RunDescription::FromJson(hello.description));
    if (run_ == nullptr) {
      MF_RETURN_IF_ERROR(OpenRun(std::move(run)));
    } else if (run_->id != run.RunId()) {
      return {Code::kWrongRun,
              "this server runs another training: " + DescribeDifference(run_->description, run) +
                  "; use the same --config, --set and --data, or servers of your own"};
    }
  }
  Sessions& sessions = observer ? observers_ : workers_;
  call.reply.body = HelloReply{.session = sessions.Renew(call.request.session), .state = State()};
  return Status::Ok();
}

/// The first worker's hello says what run it is.
Status Shard::OpenRun(RunDescription run) {
  MF_RETURN_IF_ERROR(CheckFits(run, options_.shards));
  if (const auto held = snapshots_ == nullptr ? std::nullopt : snapshots_->NewestInfo();
      held.has_value() && held->run_id != run.RunId()) {
    return AnotherTrainingThere(held->description, run);
  }
  run_ = std::make_unique<Run>(std::move(run));
  if (options_.metrics != nullptr) {
    options_.metrics->Set(Metric::kRunSteps, static_cast<double>(run_->rules.steps));
    options_.metrics->Set(Metric::kServers, static_cast<double>(options_.shards));
  }
  if (options_.shard != 0) return Status::Ok();
  service_ =
      std::make_unique<CoordinatorService>(run_->rules, options_.boot_count, options_.metrics,
                                           [this](const std::string& peer, Reply answer) {
                                             answer.incarnation = options_.incarnation;
                                             send_(peer, std::move(answer));
                                           });
  return Status::Ok();
}

bool Shard::finished() const {
  return run_ != nullptr && commit_.recovered() &&
         commit_.finished() == static_cast<uint64_t>(run_->rules.steps) &&
         (service_ == nullptr || service_->coordinator().finished());
}

const std::string& Shard::run_id() const {
  static const std::string none;
  return run_ == nullptr ? none : run_->id;
}

RunState Shard::State() const {
  RunState state{.finished = commit_.state(), .description = run_->text};
  if (snapshots_ != nullptr) state.snapshots = snapshots_->State();
  if (options_.folder != nullptr) state.had_common = options_.folder->common_step();
  return state;
}

Status Shard::Do(const StatusRequest&, Call& call) {
  call.reply.body = StatusReply{State()};
  return Status::Ok();
}

Status Shard::Do(const RollbackRequest& rollback, Call& call) {
  call.reply.body = RollbackReply{};
  // Who looked at another process in this place may not know what this one has (DESIGN 2.7).
  if (rollback.incarnation != 0 && rollback.incarnation != options_.incarnation) {
    return {Code::kWrongEpoch, "rollback of another incarnation of this server"};
  }
  const uint64_t step = rollback.to.step;
  // Before anything is said of the step: a late holder's may be discarded long since.
  MF_ASSIGN_OR_RETURN(const auto admitted, commit_.AdmitRollback(rollback.to));
  if (admitted == CommitState::Action::kRepeat) return Status::Ok();
  if (step != 0) {
    const std::vector<uint64_t> published =
        snapshots_ == nullptr ? std::vector<uint64_t>() : snapshots_->State().published;
    if (!std::binary_search(published.begin(), published.end(), step)) {
      // Not the holder's mistake: what it was told of may have been deleted by the rollback of an
      // older holder, or set aside as damaged. It has to look again.
      return {Code::kUnavailable,
              "rollback to step " + std::to_string(step) + ": there is no such state here"};
    }
  }
  MF_RETURN_IF_ERROR(commit_.Rollback(rollback.to).status());
  Status restored = Status::Failed("not enough memory for the tables");
  try {
    restored = Restore(step);
  } catch (const std::bad_alloc&) {
  }
  if (!restored.ok()) {
    run_->DropTensors();
    commit_.RollbackFailed();
    return restored;
  }
  monitor_.RolledBack(commit_.finished());
  return Status::Ok();
}

Status Shard::Restore(uint64_t step) {
  if (snapshots_ != nullptr) snapshots_->AbandonCurrent();  // it reads the tables
  BuildTables();
  if (snapshots_ == nullptr) return Status::Ok();
  if (step == 0) return snapshots_->Clear(run_->clock);
  std::vector<StepRecord> records;
  MF_RETURN_IF_ERROR(
      snapshots_->Load(step, run_->id, run_->tensors, run_->history, run_->clock, &records));
  if (service_ != nullptr) service_->Restore(step, records);
  return Status::Ok();
}

void Shard::BuildTables() {
  // What fits the budget is addressed directly, the smallest tensors first (DESIGN 2.8).
  run_->DropTensors();
  run_->history.Truncate(0);
  run_->ForgetPrepared();
  const RunRules& rules = run_->rules;
  std::vector<TensorLayout> layouts;
  for (const TensorSpec& spec : run_->specs) {
    layouts.push_back(LayoutOf(spec, rules.column_blocks, options_.shard, options_.shards));
  }
  const auto state_bytes = [&](size_t i) {
    // Gradients of a step can hit every row, too; and while a snapshot is written the state may
    // have to be kept twice.
    const uint64_t rows = layouts[i].spec.total_rows();
    const uint64_t state = Table::DirectBytes(layouts[i], rows);
    return state * (snapshots_ == nullptr ? 1 : 2) + rows * layouts[i].stride * sizeof(float);
  };
  std::vector<size_t> by_size(layouts.size());
  std::iota(by_size.begin(), by_size.end(), size_t{0});
  std::stable_sort(by_size.begin(), by_size.end(),
                   [&](size_t a, size_t b) { return state_bytes(a) < state_bytes(b); });
  std::vector<Table::Storage> storage(layouts.size(), Table::Storage::kSparse);
  uint64_t left = options_.memory_bytes;
  // Dense tensors are read and written whole: direct whatever the budget is.
  for (const size_t i : by_size) {
    if (layouts[i].spec.kind != TensorKind::kDense) continue;
    storage[i] = Table::Storage::kDirect;
    left -= std::min(left, state_bytes(i));
  }
  for (const size_t i : by_size) {
    if (storage[i] == Table::Storage::kDirect) continue;
    if (state_bytes(i) > left) break;
    storage[i] = Table::Storage::kDirect;
    left -= state_bytes(i);
  }
  std::vector<std::unique_ptr<TensorShard>> tensors;
  for (size_t i = 0; i < layouts.size(); ++i) {
    // Every server sees every hit: one of them counts (DESIGN 7).
    const TensorShard::Options options{rules.seed, storage[i], options_.shard == 0,
                                       run_->micro_batches()};
    tensors.push_back(std::make_unique<TensorShard>(std::move(layouts[i]), options, run_->clock,
                                                    pool_, *run_->arena, run_->scratch));
  }
  run_->tensors = std::move(tensors);
}

Status Shard::Do(const PrepareRequest& prepare, Call& call) {
  if (run_->tensors.empty()) return {Code::kUnavailable, "waits for recovery"};
  MF_ASSIGN_OR_RETURN(const auto action, commit_.Prepare(prepare.at, run_->AllIn()));
  if (action == CommitState::Action::kDo) {
    run_->ForgetPrepared();
    PrepareReply& prepared = run_->prepared;
    std::vector<double>& squares = run_->squares;
    squares.clear();
    for (const auto& tensor : run_->tensors) {
      tensor->Prepare(&squares);
      if (!tensor->finite() && prepared.not_finite.empty()) {
        prepared.not_finite = tensor->layout().spec.name;
      }
    }
    Buffer buffer(squares.size() * sizeof(double));
    std::memcpy(buffer.data(), squares.data(), buffer.size());
    run_->prepared_squares = {Frame(buffer)};
    if (snapshots_ != nullptr) prepared.snapshots = snapshots_->State();
  }
  call.reply.body = run_->prepared;
  call.reply.payload = run_->prepared_squares;
  return Status::Ok();
}

template <class Update>
Result<bool> Shard::EndStep(OpenStep at, Ended how, const SnapshotPlan& snapshots, double grad_norm,
                            double now, Update update) {
  MF_ASSIGN_OR_RETURN(const auto end, commit_.Finish(at, how));
  const bool applied = end.ended == Ended::kApplied;
  if (end.action != CommitState::Action::kDo) return applied;
  try {
    update();
  } catch (const std::bad_alloc&) {
    // Half a step is in the tables: they are no state that anybody may read or save.
    if (snapshots_ != nullptr) snapshots_->AbandonCurrent();
    run_->DropTensors();
    commit_.RollbackFailed();
    return Status(Code::kUnavailable, "not enough memory to apply a step; it has to be recovered");
  }
  monitor_.StepEnded(commit_.finished(), applied);
  if (snapshots_ == nullptr) return applied;
  if (options_.folder != nullptr) {
    // For a recovery that finds none any more. If it cannot be kept now, it is said again.
    (void)options_.folder->KeepCommonStep(snapshots.common);
  }
  snapshots_->Discard(snapshots.discard);
  if (snapshots.take) TakeSnapshot(at, applied, grad_norm, now);
  return applied;
}

Status Shard::Do(const ApplyRequest& apply, Call& call) {
  const auto fits_float = [](double x) { return std::abs(x) <= std::numeric_limits<float>::max(); };
  if (!fits_float(apply.lr) || !fits_float(apply.scale)) {
    return Bad("apply with a rate or scale that is not a finite float");
  }
  MF_ASSIGN_OR_RETURN(
      const bool applied,
      EndStep(apply.at, Ended::kApplied, apply.snapshots, apply.grad_norm, call.now, [&] {
        for (const auto& tensor : run_->tensors) {
          tensor->Apply(run_->history, apply.lr, static_cast<float>(apply.scale));
        }
        run_->history.Append(apply.lr);
      }));
  call.reply.body = ApplyReply{applied};
  return Status::Ok();
}

Status Shard::Do(const DropRequest& drop, Call& call) {
  MF_ASSIGN_OR_RETURN(const bool applied, EndStep(drop.at, Ended::kDropped, drop.snapshots,
                                                  drop.grad_norm, call.now, [&] {
                                                    for (const auto& tensor : run_->tensors)
                                                      tensor->ForgetStep();
                                                  }));
  call.reply.body = DropReply{applied};
  return Status::Ok();
}

void Shard::TakeSnapshot(OpenStep after, bool applied, double grad_norm, double now) {
  std::vector<StepRecord> records;
  if (service_ != nullptr) {
    records = service_->coordinator().records();
    // The coordinator hears of the step's end later.
    if (service_->coordinator().step() == after.step) {
      records.push_back(service_->coordinator().RecordIfEnded(applied, grad_norm));
    }
  }
  const SnapshotInfo info{.step = commit_.finished(),
                          .run_id = run_->id,
                          .description = run_->text,
                          .shard = options_.shard,
                          .shards = options_.shards,
                          .applied = run_->history.count()};
  snapshots_->Begin(info, run_->tensors, run_->history, records, run_->clock, now);
}

Status Shard::CheckCoordinator() const {
  if (service_ != nullptr) return Status::Ok();
  return Bad("the work coordinator is on shard 0, this is shard " + std::to_string(options_.shard));
}

// Those are answered by the host (run_host.h), which knows more runs than this one.
Status Shard::Do(const ListRunsRequest&, Call&) { return Bad("not a request to one run"); }
Status Shard::Do(const DeleteRunRequest&, Call&) { return Bad("not a request to one run"); }

Status Shard::Do(const LeaseRequest& ask, Call& call) {
  MF_RETURN_IF_ERROR(CheckCoordinator());
  MF_RETURN_IF_ERROR(service_->Lease(call.peer, call.request, ask, call.now));
  call.answered = true;
  return Status::Ok();
}

Status Shard::Do(const RenewRequest& renew, Call& call) {
  MF_RETURN_IF_ERROR(CheckCoordinator());
  call.reply.body = RenewReply{};
  return service_->Report(call.request.session, renew, call.now);
}

Status Shard::Do(const GiveBackRequest& give_back, Call& call) {
  MF_RETURN_IF_ERROR(CheckCoordinator());
  call.reply.body = GiveBackReply{};
  return service_->Report(call.request.session, give_back, call.now);
}

Status Shard::Do(const MicroBatchDoneRequest& done, Call& call) {
  MF_RETURN_IF_ERROR(CheckCoordinator());
  call.reply.body = MicroBatchDoneReply{};
  return service_->Report(call.request.session, done, call.now);
}

Status Shard::Do(const StepEndedRequest& ended, Call& call) {
  MF_RETURN_IF_ERROR(CheckCoordinator());
  call.reply.body = StepEndedReply{};
  return service_->Report(call.request.session, ended, call.now);
}

Status Shard::Do(const EvaluatedRequest& evaluated, Call& call) {
  MF_RETURN_IF_ERROR(CheckCoordinator());
  call.reply.body = EvaluatedReply{};
  return service_->Report(call.request.session, evaluated, call.now);
}

Status Shard::Do(const RecoveredRequest& recovered, Call& call) {
  MF_RETURN_IF_ERROR(CheckCoordinator());
  call.reply.body = RecoveredReply{};
  return service_->Report(call.request.session, recovered, call.now);
}

void Shard::Tick(double now) {
  if (service_ != nullptr) service_->Tick(now);
  if (run_ != nullptr) monitor_.Tick(run_->tensors, commit_.open().step, now);
  if (run_ != nullptr && snapshots_ != nullptr) snapshots_->UpdateAgeMetric(now);
  if (options_.metrics != nullptr && options_.folder != nullptr && now >= next_disk_sample_) {
    constexpr double kBetweenLooks = 5;  // seconds; the disk may be far away
    next_disk_sample_ = now + kBetweenLooks;
    const DataDirectory::Space disk = options_.folder->DiskSpace();
    if (disk.size > 0) {  // else it did not answer, and is neither empty nor full
      options_.metrics->Set(Metric::kDataFree, static_cast<double>(disk.free));
      options_.metrics->Set(Metric::kDataSize, static_cast<double>(disk.size));
    }
  }
}

}  // namespace mf
