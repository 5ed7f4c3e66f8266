#include "pserver/shard/commit.h"

namespace mf {

Status CommitState::Admit(OpenStep at) const {
  if (!recovered()) return {Code::kUnavailable, "waits for recovery"};
  if (at.epoch != epoch_) {
    return {Code::kWrongEpoch,
            "epoch " + std::to_string(at.epoch) + ", here it is " + std::to_string(epoch_)};
  }
  if (at.step <= finished()) {
    return {Code::kStale, "step " + std::to_string(at.step) + " has ended"};
  }
  if (at != open()) {
    return {Code::kNotYet, "step " + std::to_string(at.step) + " has not begun"};
  }
  return Status::Ok();
}

Result<CommitState::Action> CommitState::Prepare(OpenStep at, bool all_in) {
  // The holder may have died after the end of the step reached some servers: the next one needs all
  // answers again to decide the same. Once the next step is prepared, the answer kept is that
  // one's.
  if (recovered() && at.epoch == epoch_ && at.step == finished() && !applied_.empty() && !prepared_)
    return Action::kRepeat;
  MF_RETURN_IF_ERROR(Admit(at));
  if (prepared_) return Action::kRepeat;
  if (!all_in) {
    return Status(Code::kNotYet, "step " + std::to_string(at.step) + " still lacks contributions");
  }
  prepared_ = true;
  return Action::kDo;
}

Result<CommitState::End> CommitState::Finish(OpenStep at, Ended how) {
  const Status admitted = Admit(at);
  if (admitted.code() == Code::kStale && at.step > first_) {
    const bool applied = applied_[at.step - first_ - 1];
    return End{Action::kRepeat, applied ? Ended::kApplied : Ended::kDropped};
  }
  MF_RETURN_IF_ERROR(admitted);
  if (!prepared_) {
    return Status(Code::kNotYet, "step " + std::to_string(at.step) + " is not prepared");
  }
  applied_.push_back(how == Ended::kApplied);  // first: memory may end
  prepared_ = false;
  return End{Action::kDo, how};
}

Result<CommitState::Action> CommitState::AdmitRollback(FinishedStep to) const {
  if (to.epoch == epoch_ && restored_ && to.step == first_) return Action::kRepeat;
  if (to.epoch <= epoch_) {
    return Status(Code::kWrongEpoch, "rollback of epoch " + std::to_string(to.epoch) +
                                         ", here it is already " + std::to_string(epoch_));
  }
  return Action::kDo;
}

Result<CommitState::Action> CommitState::Rollback(FinishedStep to) {
  MF_ASSIGN_OR_RETURN(const Action action, AdmitRollback(to));
  if (action == Action::kRepeat) return action;
  epoch_ = to.epoch;
  restored_ = true;
  first_ = to.step;
  applied_.clear();
  prepared_ = false;
  return Action::kDo;
}

}  // namespace mf
