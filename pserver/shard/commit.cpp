#include "pserver/shard/commit.h"

namespace mf {

Status CommitState::Admit(uint64_t epoch, uint64_t step) const {
  if (!recovered()) return {Code::kUnavailable, "waits for recovery"};
  if (epoch != epoch_) {
    return {Code::kWrongEpoch,
            "epoch " + std::to_string(epoch) + ", here it is " + std::to_string(epoch_)};
  }
  if (step < this->step()) {
    return {Code::kStale, "step " + std::to_string(step) + " has ended"};
  }
  if (step > this->step()) {
    return {Code::kNotYet, "step " + std::to_string(step) + " has not begun"};
  }
  return Status::Ok();
}

Result<CommitState::Action> CommitState::Prepare(uint64_t epoch, uint64_t step, bool all_in) {
  // The holder may have died after the end of the step reached some servers: the next one needs all
  // answers again to decide the same. Once the next step is prepared, the answer kept is that
  // one's.
  if (recovered() && epoch == epoch_ && step == finished() && !ended_.empty() && !prepared_)
    return Action::kRepeat;
  MF_RETURN_IF_ERROR(Admit(epoch, step));
  if (prepared_) return Action::kRepeat;
  if (!all_in) {
    return Status(Code::kNotYet, "step " + std::to_string(step) + " still lacks contributions");
  }
  prepared_ = true;
  return Action::kDo;
}

Result<CommitState::End> CommitState::Finish(uint64_t epoch, uint64_t step, Ended how) {
  const Status admitted = Admit(epoch, step);
  if (admitted.code() == Code::kStale && step > first_) {
    return End{Action::kRepeat, ended_[step - first_ - 1]};
  }
  MF_RETURN_IF_ERROR(admitted);
  if (!prepared_) {
    return Status(Code::kNotYet, "step " + std::to_string(step) + " is not prepared");
  }
  prepared_ = false;
  ended_.push_back(how);
  return End{Action::kDo, how};
}

Result<CommitState::Action> CommitState::AdmitRollback(uint64_t epoch, uint64_t step) const {
  if (epoch == epoch_ && restored_ && step == first_) return Action::kRepeat;
  if (epoch <= epoch_) {
    return Status(Code::kWrongEpoch, "rollback of epoch " + std::to_string(epoch) +
                                         ", here it is already " + std::to_string(epoch_));
  }
  return Action::kDo;
}

Result<CommitState::Action> CommitState::Rollback(uint64_t epoch, uint64_t step) {
  MF_ASSIGN_OR_RETURN(const Action action, AdmitRollback(epoch, step));
  if (action == Action::kRepeat) return action;
  epoch_ = epoch;
  restored_ = true;
  first_ = step;
  ended_.clear();
  prepared_ = false;
  return Action::kDo;
}

}  // namespace mf
