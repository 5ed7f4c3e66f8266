// Where a server is: epoch, open step, prepared or not, and how earlier steps ended
// (DESIGN 2.6, 2.7). A state machine: it decides, the caller does. No socket, thread, clock or file
// inside.
#pragma once

#include <cstdint>
#include <vector>

#include "common/base/status.h"
#include "common/net/step.h"

namespace mf {

enum class Ended { kApplied, kDropped };

class CommitState {
 public:
  uint64_t epoch() const { return epoch_; }
  /// The last finished step; 0: none.
  uint64_t finished() const { return first_ + applied_.size(); }
  /// The same with the epoch: the state that can be read.
  FinishedStep state() const { return {epoch_, finished()}; }
  OpenStep open() const { return state().next(); }
  /// The open step is prepared: its end may come.
  bool prepared() const { return prepared_; }
  /// False until the first rollback: nothing but hello, status and rollback is answered.
  bool recovered() const { return restored_; }

  /// Ok if `at` is the open step; else kUnavailable, kWrongEpoch, kStale or kNotYet.
  Status Admit(OpenStep at) const;

  enum class Action {
    kDo,      // do it now, then nothing more to say
    kRepeat,  // it was done before: answer as then
  };
  /// prepare: refused (kNotYet) unless every table's watermark is at the step's end. Of the
  /// step that ended last it is a repeat: its answer is kept until the next step is prepared.
  Result<Action> Prepare(OpenStep at, bool all_in);

  struct End {
    Action action;
    Ended ended;  // how the step ended, which may not be as asked
  };
  /// apply or drop: needs a prepared step; on a step already ended it says how.
  Result<End> Finish(OpenStep at, Ended how);

  /// What a rollback would be: only an epoch above the own one is taken; the same again is a
  /// repeat.
  Result<Action> AdmitRollback(FinishedStep to) const;
  /// After kDo the state `to` is to be restored.
  Result<Action> Rollback(FinishedStep to);
  /// The state that Rollback() asked for could not be restored: as before the first rollback, but
  /// the epoch stays.
  void RollbackFailed() { restored_ = false; }

 private:
  uint64_t epoch_ = 0;
  bool restored_ = false;
  uint64_t first_ = 0;         // finished steps at the last rollback
  std::vector<bool> applied_;  // those since then: applied, or dropped
  bool prepared_ = false;
};

}  // namespace mf
