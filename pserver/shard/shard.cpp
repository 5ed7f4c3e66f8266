#include "pserver/shard/shard.h"

#include <cmath>
#include <limits>
#include <new>
#include <string_view>
#include <system_error>

#include "common/base/buffer_pool.h"
#include "common/base/logging.h"
#include "common/base/machine_limits.h"
#include "common/run/versions.h"
#include "pserver/shard/shard_run.h"

namespace mf {
namespace {

constexpr size_t kWorkersMax = 65'536;
constexpr size_t kObserversMax = 256;
constexpr double kApplyPatienceSeconds = 5;  // of a server that ends

constexpr const char* kLost = "the server is out of memory and has lost its state; try again";

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

void SampleDisk(DataDirectory& folder, Metrics& metrics) {
  folder.LookForIt();
  const DataDirectory::Space disk = folder.DiskSpace();
  if (disk.size == 0) return;  // it did not answer, and is neither empty nor full
  metrics.Set(Metric::kDataFree, static_cast<double>(disk.free));
  metrics.Set(Metric::kDataSize, static_cast<double>(disk.size));
}

/// Observers read finished states, which leaves no trace, and may end a run; they do not train.
bool ObserverMay(const RequestBody& body) {
  if (const auto* pull = std::get_if<PullRequest>(&body)) return !IsTraining(pull->at);
  if (const auto* forward = std::get_if<ForwardRequest>(&body)) return !IsTraining(forward->at);
  return std::holds_alternative<HelloRequest>(body) ||
         std::holds_alternative<StatusRequest>(body) ||
         std::holds_alternative<ListRowsRequest>(body) ||
         std::holds_alternative<BucketsRequest>(body) ||
         std::holds_alternative<SaveRequest>(body) || std::holds_alternative<StopRequest>(body);
}

}  // namespace

Status AnotherTrainingThere(const Result<RunDescription>& there, const RunDescription& here) {
  return {Code::kWrongRun,
          "this server's folder holds another training: " +
              (there.ok() ? DescribeDifference(there.value(), here) : there.status().message()) +
              "; use the same configuration and data to go on with it, or a folder of its own"};
}

Status CheckFits(const RunDescription& run, uint32_t shards) {
  MF_RETURN_IF_ERROR(CheckShards(run, shards));
  return CheckDenseMemory(run);
}

Status Shard::CheckAddressee(const HelloRequest& hello, const Options& options) {
  MF_RETURN_IF_ERROR(CheckVersion(kProtocolFormat, hello.protocol, ""));
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
  snapshots_ = std::make_unique<Snapshots>(*options.store, *options.writer, options.disk, pool,
                                           options.metrics);
}

Shard::~Shard() { snapshots_.reset(); }  // before the tables that it reads

void Shard::Handle(const std::string& peer, const Request& request, double now) {
  Call call{.peer = peer, .request = request, .now = now};
  const bool at_once = AnswersAtOnce(request.op());
  MF_CHECK(at_once || doing_ == nullptr);
  if (!at_once) doing_ = OpName(request.op());
  try {
    const Status status = Dispatch(call);
    if (!status.ok() || !call.answered) Answer(call, status);
  } catch (const std::bad_alloc&) {
    AnswerOutOfMemory(call);
  }
  if (!at_once) doing_ = nullptr;
}

void Shard::AnswerOutOfMemory(Call& call) {
  EmptyPool();
  const std::string_view op = OpName(call.request.op());
  if (lost_) {
    spdlog::error(
        "memory ended in the middle of {}: this server has lost its state, which is recovered from "
        "the last snapshot; use more servers or a smaller model",
        op);
  }
  if (call.answered) return;
  try {
    Answer(call, lost_ ? Status(Code::kUnavailable, std::string(op) + ": " + kLost)
                       : Status::Failed(std::string(op) +
                                        ": the server has not enough memory for it; use more "
                                        "servers or a smaller model"));
  } catch (const std::bad_alloc&) {
    // Not even for the answer: who asks asks again.
  }
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
  if (lost_) return {Code::kUnavailable, kLost};
  const Op op = call.request.op();
  const uint64_t session = call.request.session;
  if (observers_.contains(session)) {
    if (!ObserverMay(call.request.body)) return Bad(std::string(OpName(op)) + " from an observer");
  } else if (op != Op::kHello && !workers_.contains(session)) {
    return NotJoined(op);
  }
  MF_CHECK(op == Op::kHello || run_ != nullptr);
  return std::visit([&](const auto& body) { return Do(body, call); }, call.request.body);
}

Status Shard::Do(const HelloRequest& hello, Call& call) {
  MF_RETURN_IF_ERROR(CheckAddressee(hello, options_));
  const bool observer = hello.description.empty();
  if (observer) {
    if (run_ == nullptr) return NoTrainingYet();
  } else if (!Describes(hello.description)) {
    MF_ASSIGN_OR_RETURN(RunDescription run, RunDescription::FromJson(hello.description));
    if (run_ == nullptr) {
      MF_RETURN_IF_ERROR(OpenRun(std::move(run)));
    } else if (run_->id != run.RunId()) {
      return {Code::kWrongRun,
              "this server runs another training: " + DescribeDifference(run_->description, run) +
                  "; use the same configuration and data, or servers of your own"};
    }
  }
  Sessions& sessions = observer ? observers_ : workers_;
  const bool known = sessions.contains(call.request.session);
  const uint64_t session = sessions.Renew(call.request.session);
  if (service_ != nullptr && !observer && !known) {
    service_->Joined(session, call.request.session != 0, call.now);
  }
  call.reply.body = HelloReply{.session = session, .state = State()};
  return Status::Ok();
}

/// The first worker's hello says what run it is.
Status Shard::OpenRun(RunDescription run) {
  MF_RETURN_IF_ERROR(CheckFits(run, options_.shards));
  if (const auto held = snapshots_ == nullptr ? std::nullopt : snapshots_->NewestInfo();
      held.has_value() && held->run_id != run.RunId()) {
    return AnotherTrainingThere(RunDescription::FromJson(held->description), run);
  }
  auto opened = std::make_unique<Run>(std::move(run));
  std::unique_ptr<CoordinatorService> service;
  if (options_.shard == 0) {
    service =
        std::make_unique<CoordinatorService>(opened->rules, options_.boot_count, options_.metrics,
                                             [this](const std::string& peer, Reply answer) {
                                               answer.incarnation = options_.incarnation;
                                               send_(peer, std::move(answer));
                                             });
  }
  std::unique_ptr<InitialState> initial;
  if (!opened->description.initial.empty() && options_.initial != nullptr) {
    initial = std::make_unique<InitialState>(*options_.initial, pool_, opened->description,
                                             SnapshotInfo{.step = kInitialStep,
                                                          .run_id = opened->id,
                                                          .description = opened->text,
                                                          .shard = options_.shard,
                                                          .shards = options_.shards});
  }
  if (options_.metrics != nullptr) {
    options_.metrics->Set(Metric::kRunSteps, static_cast<double>(opened->rules.steps));
    options_.metrics->Set(Metric::kServers, static_cast<double>(options_.shards));
  }
  // From here on no memory is needed: the run is there with all that belongs to it, or not at all.
  service_ = std::move(service);
  initial_ = std::move(initial);
  run_ = std::move(opened);
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

bool Shard::Describes(const std::string& description) const {
  return run_ != nullptr && run_->text == description;
}

RunState Shard::State() const {
  RunState state{.finished = commit_.state(), .description = run_->text};
  if (snapshots_ != nullptr) state.snapshots = snapshots_->State();
  if (options_.folder != nullptr) state.had_common = options_.folder->common_step();
  state.doing = Doing();
  return state;
}

std::string Shard::Doing() const {
  if (const auto percent = snapshots_ == nullptr ? std::nullopt : snapshots_->loaded_percent();
      percent.has_value()) {
    return "loading step " + std::to_string(commit_.finished()) + ": " + std::to_string(*percent) +
           "%";
  }
  return doing_ == nullptr ? "" : doing_;
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
  if (step == 0) {
    MF_RETURN_IF_ERROR(CheckInitialState());
  } else {
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
  last_end_ = {};
  Status restored;
  const char* lacking = nullptr;
  try {
    restored = Restore(step);
  } catch (const std::bad_alloc&) {
    lacking = "memory";
  } catch (const std::system_error&) {
    lacking = "threads";
  }
  if (lacking == nullptr && restored.ok()) {
    monitor_.RolledBack(commit_.finished());
    return restored;
  }
  run_->Drop();
  commit_.RollbackFailed();
  if (lacking == nullptr) return restored;
  return Status::Failed(std::string("not enough ") + lacking + " for the tables");
}

Status Shard::Restore(uint64_t step) {
  if (snapshots_ != nullptr) snapshots_->AbandonCurrent();  // it reads the tables
  run_->ForgetPrepared();
  const ShardTables::Options options{.shard = options_.shard,
                                     .shards = options_.shards,
                                     .memory_bytes = options_.memory_bytes,
                                     .writes_snapshots = snapshots_ != nullptr};
  run_->Build(run_->description, options, pool_);
  if (snapshots_ == nullptr) return Status::Ok();
  if (step == 0) {
    MF_RETURN_IF_ERROR(snapshots_->Clear(run_->clock));
    if (initial_ == nullptr) return Status::Ok();
    return snapshots_->LoadInitial(*options_.initial, run_->id, *run_);
  }
  std::vector<StepRecord> records;
  MF_RETURN_IF_ERROR(snapshots_->Load(step, run_->id, *run_, &records));
  if (service_ != nullptr) service_->Restore(step, records);
  return Status::Ok();
}

Status Shard::CheckInitialState() const {
  if (run_->description.initial.empty()) return Status::Ok();
  if (initial_ != nullptr && initial_->there()) return Status::Ok();
  return Status::Failed(
      "the state that this run begins with is not on this server; start its workers anew, they "
      "bring it (worker train --init)");
}

Status Shard::Do(const InitialiseRequest& initialise, Call& call) {
  if (run_->description.initial.empty()) return Bad("this run begins as made from its seed");
  if (initial_ == nullptr) {
    return Bad(
        "this server has no --data folder, where the state that a run begins with is kept; start "
        "the servers with one");
  }
  MF_RETURN_IF_ERROR(
      initial_->Take(initialise, call.request.payload, call.request.session, call.now));
  call.reply.body = InitialiseReply{initial_->there()};
  return Status::Ok();
}

Status Shard::Do(const PrepareRequest& prepare, Call& call) {
  if (run_->tensors.empty()) return {Code::kUnavailable, "waits for recovery"};
  if (ending_since_.has_value() && prepare.at == commit_.open() && !commit_.prepared()) {
    return {Code::kUnavailable, "this server ends"};
  }
  MF_ASSIGN_OR_RETURN(const auto action, commit_.Prepare(prepare.at, run_->AllIn()));
  if (action == CommitState::Action::kDo) AllOrLost([&] { Prepare(); });
  call.reply.body = run_->prepared;
  call.reply.payload = run_->prepared_squares;
  return Status::Ok();
}

void Shard::Prepare() {
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

template <class Update>
Result<bool> Shard::EndStep(OpenStep at, Ended how, const SnapshotPlan& snapshots, double grad_norm,
                            double now, Update update) {
  MF_ASSIGN_OR_RETURN(const auto end, commit_.Finish(at, how));
  const bool applied = end.ended == Ended::kApplied;
  if (end.action != CommitState::Action::kDo) return applied;
  AllOrLost(update);
  last_end_ = {commit_.finished(), applied, grad_norm};
  monitor_.StepEnded(commit_.finished(), applied);
  if (snapshots_ != nullptr) FollowPlan(snapshots, now);
  return applied;
}

void Shard::FollowPlan(const SnapshotPlan& plan, double now) {
  try {
    if (options_.folder != nullptr) {
      // For a recovery that finds none any more. If it cannot be kept now, it is said again.
      OnDisk(
          [folder = options_.folder, step = plan.common] { (void)folder->KeepCommonStep(step); });
    }
    snapshots_->Discard(plan.discard);
    if (plan.take) TakeSnapshot(now);
  } catch (const std::bad_alloc&) {
    // The step has ended all the same, and what is not done now is in a later plan, too.
    spdlog::error("step {}: out of memory for its snapshot", commit_.finished());
  }
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

std::vector<StepRecord> Shard::RecordsFrom(uint64_t step) const {
  if (service_ == nullptr) return {};
  const Coordinator& coordinator = service_->coordinator();
  std::vector<StepRecord> records = coordinator.RecordsFrom(step);
  if (coordinator.step() == last_end_.step && last_end_.step == commit_.finished() &&
      (records.empty() || records.back().step < last_end_.step)) {
    records.push_back(coordinator.RecordIfEnded(last_end_.applied, last_end_.grad_norm));
  }
  return records;
}

void Shard::TakeSnapshot(double now) {
  const SnapshotInfo info{.step = commit_.finished(),
                          .run_id = run_->id,
                          .description = run_->text,
                          .shard = options_.shard,
                          .shards = options_.shards,
                          .applied = run_->history.count()};
  snapshots_->Begin(
      info, *run_, [this](uint64_t step) { return RecordsFrom(step); }, now);
}

void Shard::OnDisk(std::function<void()> job) {
  if (options_.disk == nullptr) return job();
  options_.disk->Do(std::move(job));
}

bool Shard::IsPublished(uint64_t step) const {
  const std::vector<uint64_t> published = snapshots_->State().published;
  return std::binary_search(published.begin(), published.end(), step);
}

Status Shard::Save(uint64_t step, double now) {
  if (snapshots_ == nullptr) return Bad("this server keeps no snapshots");
  if (!run_->rules.snapshots.on()) {
    return Bad("snapshots are turned off: snapshot.every_steps and snapshot.every_minutes are 0");
  }
  if (step == 0) return Bad("save of step 0, which is made from the seed");
  if (IsPublished(step) || snapshots_->writing() == step) return Status::Ok();
  if (!commit_.recovered()) return {Code::kUnavailable, "waits for recovery"};
  if (step != commit_.finished()) {
    return {step < commit_.finished() ? Code::kStale : Code::kNotYet,
            "save of step " + std::to_string(step) + ", here it is " +
                std::to_string(commit_.finished())};
  }
  if (snapshots_->writing() != 0) return Status::Ok();
  if (std::exchange(save_begun_, step) == step) {
    save_begun_ = 0;  // whoever asks again has it tried again
    return Status::Failed("the snapshot of step " + std::to_string(step) + " could not be written");
  }
  TakeSnapshot(now);
  return Status::Ok();
}

Status Shard::Do(const SaveRequest& save, Call& call) {
  MF_RETURN_IF_ERROR(Save(save.step, call.now));
  if (save.by_all && IsPublished(save.step) && options_.folder != nullptr) {
    Status kept;
    pool_.RunAside([&] {
      if (options_.disk != nullptr) options_.disk->Drain();
      kept = options_.folder->KeepCommonStep(save.step);
    });
    MF_RETURN_IF_ERROR(kept);
  }
  call.reply.body = SaveReply{snapshots_->State()};
  return Status::Ok();
}

Status Shard::Do(const LeaveRequest&, Call& call) {
  MF_RETURN_IF_ERROR(CheckCoordinator());
  call.reply.body = AllOrLost([&] { return service_->Leave(call.request.session, call.now); });
  return Status::Ok();
}

Status Shard::Do(const StopRequest& stop, Call& call) {
  MF_RETURN_IF_ERROR(CheckCoordinator());
  if (stop.run != run_->id) return Bad("stop of run " + stop.run + ", here it is " + run_->id);
  if (service_->coordinator().recovers()) {
    return {Code::kUnavailable, "a server was started again, and no worker has recovered it yet"};
  }
  call.reply.body = AllOrLost([&] { return service_->Stop(call.now); });
  return Status::Ok();
}

bool Shard::ReadyToEnd(double now) {
  if (run_ == nullptr || snapshots_ == nullptr) return true;
  if (!commit_.recovered() || commit_.finished() == 0) return !writing_snapshot();
  // All servers have prepared the step, perhaps, and some have ended it.
  if (commit_.prepared() && now - ending_since_.value() < kApplyPatienceSeconds) return false;
  const uint64_t step = commit_.finished();
  if (IsPublished(step)) return !writing_snapshot();
  const Status saved = Save(step, now);
  if (saved.ok()) return false;
  unsaved_ = saved.code() != Code::kInvalid;  // or snapshots are turned off
  spdlog::error("the state after step {} is not saved: {}", step, saved.message());
  return true;
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
  MF_RETURN_IF_ERROR(
      AllOrLost([&] { return service_->Lease(call.peer, call.request, ask, call.now); }));
  call.answered = true;
  return Status::Ok();
}

template <class Body>
Status Shard::Report(const Body& body, ReplyBody reply, Call& call) {
  MF_RETURN_IF_ERROR(CheckCoordinator());
  call.reply.body = std::move(reply);
  return AllOrLost([&] { return service_->Report(call.request.session, body, call.now); });
}

Status Shard::Do(const RenewRequest& renew, Call& call) {
  return Report(renew, RenewReply{}, call);
}

Status Shard::Do(const GiveBackRequest& give_back, Call& call) {
  return Report(give_back, GiveBackReply{}, call);
}

Status Shard::Do(const MicroBatchDoneRequest& done, Call& call) {
  return Report(done, MicroBatchDoneReply{}, call);
}

Status Shard::Do(const StepEndedRequest& ended, Call& call) {
  return Report(ended, StepEndedReply{}, call);
}

Status Shard::Do(const EvaluatedRequest& evaluated, Call& call) {
  return Report(evaluated, EvaluatedReply{}, call);
}

Status Shard::Do(const RecoveredRequest& recovered, Call& call) {
  return Report(recovered, RecoveredReply{}, call);
}

void Shard::Tick(double now) {
  if (lost_) return;
  try {
    if (service_ != nullptr) AllOrLost([&] { service_->Tick(now); });
    Tell(now);
  } catch (const std::bad_alloc&) {
    if (lost_) spdlog::error("memory ended: this server has lost its state");
  }
}

/// The metrics.
void Shard::Tell(double now) {
  if (run_ != nullptr) monitor_.Tick(run_->tensors, commit_.open().step, now);
  if (run_ != nullptr && snapshots_ != nullptr) snapshots_->UpdateAgeMetric(now);
  if (options_.metrics != nullptr && options_.folder != nullptr && now >= next_disk_sample_) {
    constexpr double kBetweenLooks = 5;  // seconds; the disk may be far away
    next_disk_sample_ = now + kBetweenLooks;
    // One look at a time: while it waits it says how well the disk is.
    if (options_.disk == nullptr || options_.disk->idle()) {
      OnDisk([folder = options_.folder, metrics = options_.metrics] {
        SampleDisk(*folder, *metrics);
      });
    }
  }
}

}  // namespace mf
