// What the holder of a lease says to the servers and to the coordinator, and what it makes of their
// answers (DESIGN 2.6, 2.7): pure functions, so that every holder decides the same, and the same
// code decides in workers and in the simulation. No socket, thread, clock or file inside.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/client/snapshot_plan.h"
#include "common/net/messages.h"
#include "common/run/tensor_share.h"
#include "common/run/tensor_spec.h"

namespace mf {

/// All servers' answers to prepare, put together.
struct Prepared {
  double squares = 0;      // the sum of all blocks' squares in canonical order; NaN if not finite
  std::string not_finite;  // the first tensor with a gradient that is not finite, or empty
  std::vector<SnapshotState> snapshots;  // by server
};
/// kFailed, naming the server, if an answer does not fit the server's `shares`.
Result<Prepared> CombinePrepared(const std::vector<TensorSpec>& tensors, const RunShares& shares,
                                 const std::vector<Reply>& replies);

/// How a step is to end.
struct StepEnd {
  bool apply = true;  // or drop
  double lr = 0;
  double scale = 1;      // of the gradient: clipping
  double grad_norm = 0;  // for the record
  SnapshotPlan snapshots = {};
};
/// A function of all servers' answers and of what the coordinator fixed with the step's first
/// commit lease: any other holder decides the same.
StepEnd DecideEnd(const Prepared& prepared, const LeaseReply& lease);
/// apply or drop, the same for every server.
RequestBody EndRequest(OpenStep at, const StepEnd& end);
/// True if the step ended applied. kFailed if servers disagree, which must not happen.
Result<bool> CombineEnded(OpenStep at, const std::vector<Reply>& replies);
/// What the coordinator is told once all servers have acknowledged the end.
StepEndedRequest MakeStepEnded(OpenStep at, const Prepared& prepared, const StepEnd& end,
                               bool applied);

/// What the holder of a recover lease does next.
struct Recovery {
  uint64_t save = 0;  // not 0: this step is to be saved by all before the plan is made
  RecoveryPlan plan;
  std::vector<Request> rollbacks;  // by server; plan.action == kRollback: send them, then tell
  RecoveredRequest recovered;      // the coordinator; kHigherEpoch: tell the coordinator at once
};
/// `states`: every server's answer to status. `may_save`: false once saving has failed.
Recovery DecideRecovery(const LeaseReply& lease, const std::vector<Reply>& states, bool may_save);
/// Whether all servers have published a step, by their answers to save.
bool AllSaved(const std::vector<Reply>& replies, uint64_t step);

}  // namespace mf
