#include "common/client/work_loop.h"

#include <utility>

namespace mf {
namespace {

constexpr double kRetryPauseSeconds = 0.05;
constexpr double kSavePauseSeconds = 0.05;

}  // namespace

bool IsSuperseded(Code code) {
  switch (code) {
    case Code::kStale:
    case Code::kNotYet:
    case Code::kWrongEpoch:
    case Code::kUnavailable:
    case Code::kNotJoined:
      return true;
    case Code::kOk:
    case Code::kInvalid:
    case Code::kFailed:
    case Code::kWrongRun:
    case Code::kDamaged:
    case Code::kBusy:  // Client sends again
      return false;
  }
  return false;
}

WorkLoop::Action WorkLoop::Asked(Result<LeaseReply> answer, bool news) {
  if (!answer.ok()) return Fail(answer.status());
  work_ = std::move(answer).value();
  switch (work_.work) {
    case Work::kWait:
      return Ask{};
    case Work::kFailed:
      return Failed{Status::Failed(work_.failure)};
    case Work::kStopped:
      return Stopped{};
    case Work::kFinished:
      if (news) return Ask{};  // there may be more records
      return Finished{{work_.epoch, last_step_}};
    case Work::kMicroBatch:
    case Work::kCommit:
    case Work::kEvaluate:
    case Work::kRecover:
      held_ = {work_.lease, work_.lease_seconds};
      return Begin();
  }
  return Failed{Status::Failed("the coordinator leased an unknown kind of work")};
}

WorkLoop::Action WorkLoop::Begin() {
  if (work_.work == Work::kMicroBatch) return Train{work_.open(), work_.micro_batch};
  if (work_.work == Work::kEvaluate) return Evaluate{work_.finished()};
  if (work_.work == Work::kCommit) {
    return ToAll(Waits::kForPrepare, PrepareRequest{work_.open()});
  }
  may_save_ = true;
  return ToAll(Waits::kForStates, StatusRequest{});
}

WorkLoop::Action WorkLoop::Worked(Result<double> value) {
  if (!value.ok()) return Fail(value.status());
  if (work_.work == Work::kMicroBatch) {
    return TellCoordinator(MicroBatchDoneRequest{
        .at = work_.open(), .micro_batch = work_.micro_batch, .loss_sum = *value});
  }
  return TellCoordinator(EvaluatedRequest{.at = work_.finished(), .val_loss = *value});
}

WorkLoop::Action WorkLoop::Replied(Result<std::vector<Reply>> replies) {
  if (!replies.ok() && waits_ == Waits::kForSaves) {
    // What a disk does not take must not hold up the run.
    may_save_ = false;
    return ToAll(Waits::kForStates, StatusRequest{});
  }
  if (!replies.ok()) return Fail(replies.status());
  switch (waits_) {
    case Waits::kForPrepare:
      return Commit(*replies);
    case Waits::kForEnd: {
      const Result<bool> applied = CombineEnded(work_.open(), *replies);
      if (!applied.ok()) return Fail(applied.status());
      return TellCoordinator(MakeStepEnded(work_.open(), prepared_, end_, applied.value()));
    }
    case Waits::kForStates:
      return Recover(*replies);
    case Waits::kForSaves:
      if (!AllSaved(*replies, recovery_.save)) return Save(kSavePauseSeconds);
      return ToAll(Waits::kForStates, StatusRequest{});
    case Waits::kForRollback: {
      Action tell = TellCoordinator(recovery_.recovered);
      std::get<Call>(tell).recovered = recovery_.plan;
      return tell;
    }
    case Waits::kForCoordinator:
      held_.reset();
      return Ask{};
  }
  return Failed{Status::Failed("a reply that nothing waits for")};
}

WorkLoop::Action WorkLoop::Commit(const std::vector<Reply>& prepared) {
  Result<Prepared> combined = CombinePrepared(tensors_, shares_, prepared);
  if (!combined.ok()) return Fail(combined.status());
  prepared_ = std::move(combined).value();
  end_ = DecideEnd(prepared_, work_);
  return ToAll(Waits::kForEnd, EndRequest(work_.open(), end_));
}

WorkLoop::Action WorkLoop::Recover(const std::vector<Reply>& states) {
  recovery_ = DecideRecovery(work_, states, may_save_);
  if (recovery_.save != 0) return Save(0);
  switch (recovery_.plan.action) {
    case RecoveryPlan::Action::kRollback:
      return ToAll(Waits::kForRollback, recovery_.rollbacks);
    case RecoveryPlan::Action::kHigherEpoch:
      return TellCoordinator(recovery_.recovered);
    case RecoveryPlan::Action::kRefuse:
      break;
  }
  return Fail(Status::Failed(recovery_.plan.message));
}

WorkLoop::Action WorkLoop::Save(double pause_seconds) {
  Action save = ToAll(Waits::kForSaves, SaveRequest{recovery_.save});
  std::get<Call>(save).pause_seconds = pause_seconds;
  return save;
}

WorkLoop::Action WorkLoop::ToAll(Waits waits, std::vector<Request> requests) {
  waits_ = waits;
  return Call{.requests = std::move(requests)};
}

WorkLoop::Action WorkLoop::ToAll(Waits waits, const RequestBody& body) {
  return ToAll(waits, std::vector<Request>(servers_, Request{.body = body}));
}

WorkLoop::Action WorkLoop::TellCoordinator(RequestBody body) {
  waits_ = Waits::kForCoordinator;
  Call call;
  call.requests.push_back({.body = std::move(body)});
  return call;
}

WorkLoop::Action WorkLoop::Fail(const Status& status) {
  const std::optional<Lease> held = std::exchange(held_, std::nullopt);
  if (!IsSuperseded(status.code())) return Failed{status};
  Retry retry{.reason = status,
              .give_back = {},
              .pause_seconds = kRetryPauseSeconds,
              .join = status.code() == Code::kNotJoined};
  if (held.has_value()) retry.give_back = Request{.body = GiveBackRequest{held->id}};
  return retry;
}

WorkLoop::Action WorkLoop::Retried(const Status& joined) {
  if (!joined.ok()) return Failed{joined};
  return Ask{};
}

}  // namespace mf
