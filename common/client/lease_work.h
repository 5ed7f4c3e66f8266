// What the holder of a lease says to the servers and to the board, and what it makes of their
// answers (DESIGN 2.6, 2.7): pure functions, so that every holder decides the same, and the same
// code decides in workers and in the simulation. No socket, thread, clock or file inside.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/client/snapshot_plan.h"
#include "common/config/tensors.h"
#include "common/net/messages.h"

namespace mf {

/// A message to the board about what `lease` (the board's answer to a lease request) gave.
Request BoardRequest(Op op, const Reply& lease);

/// The step moved on, or the servers are being recovered: the piece of work that was answered like
/// this is nobody's any more. Whoever held it gives it back and asks for other work.
bool WorkIsOver(Code code);

/// Which steps' records a worker has been told of by the board.
class RecordCursor {
 public:
  /// What a lease request says about it.
  void Tell(Request* ask) const;
  /// Those of a lease request's answer that are news, rising.
  std::vector<StepRecord> Take(const Reply& lease);

 private:
  uint64_t epoch_ = 0, step_ = 0;
};

/// All servers' answers to prepare, put together.
struct Prepared {
  double squares = 0;      // the sum of all blocks' squares in canonical order; NaN if not finite
  std::string not_finite;  // the first tensor with a gradient that is not finite, or empty
  std::vector<SnapshotState> snapshots;  // by server
};
/// `blocks[tensor][server]`: how many column blocks the server owns. kFailed, naming the server, if
/// an answer does not fit that.
Result<Prepared> CombinePrepared(const std::vector<TensorSpec>& tensors,
                                 const std::vector<std::vector<size_t>>& blocks,
                                 const std::vector<Reply>& replies);

/// How a step is to end.
struct StepEnd {
  bool apply = true;  // or drop
  double lr = 0;
  double scale = 1;  // of the gradient: clipping
  double norm = 0;   // of the gradient, for the record
  SnapshotPlan snapshots = {};
};
/// A function of all servers' answers and of what the board fixed with the step's first commit
/// lease: any other holder decides the same.
StepEnd DecideEnd(const Prepared& prepared, const Reply& lease);
/// apply or drop, the same for every server.
Request EndRequest(uint64_t epoch, uint64_t step, const StepEnd& end);
/// True if the step ended applied. kFailed if servers disagree, which must not happen.
Result<bool> HowItEnded(uint64_t step, const std::vector<Reply>& replies);
/// What the board is told once all servers have acknowledged the end.
Request StepEndedRequest(const Reply& lease, const Prepared& prepared, const StepEnd& end,
                         bool applied);

/// What the holder of a recover lease does next.
struct Recovery {
  RecoveryPlan plan;
  std::vector<Request> rollbacks;  // by server; plan.action == kRollback: send them, then tell
  Request recovered;               // the board; kHigherEpoch: tell the board at once
};
/// `states`: every server's answer to status.
Recovery DecideRecovery(const Reply& lease, const std::vector<Reply>& states);

}  // namespace mf
