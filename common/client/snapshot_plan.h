// What to do about snapshots, as pure functions of all servers' answers (DESIGN 2.6, 2.7): whoever
// holds commit or recover decides the same. No socket, thread, clock or file inside.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mf {

/// Which states of the run a server could go back to. Step 0 is made from the seed and is not
/// listed.
struct SnapshotState {
  std::vector<uint64_t> published;  // rising
  uint64_t writing = 0;             // the step of the one that is being written; 0: none
};

/// Steps that every one of the servers (at least one) has published, rising.
std::vector<uint64_t> CommonSteps(const std::vector<SnapshotState>& servers);
/// The newest of them; 0 if there is none.
uint64_t NewestCommonStep(const std::vector<SnapshotState>& servers);

/// Whether the board wants a snapshot at the end of a step.
enum class SnapshotDue : uint16_t {
  kNo,
  kWhenIdle,  // now, or at a later step when no server is still writing the last one
  kNow,       // after the last step
};

struct SnapshotPlan {
  bool take = false;
  uint64_t common = 0;  // the newest common step now
  /// Steps that servers delete: older than the keep-th newest common one, and those that can never
  /// become common, as some server neither has them nor is writing them (a step passes once).
  /// Never the newest common step.
  std::vector<uint64_t> discard;
};
SnapshotPlan PlanSnapshots(const std::vector<SnapshotState>& servers, SnapshotDue due,
                           uint64_t keep);

/// A server as it answers hello and status.
struct ServerState {
  uint64_t epoch = 0;
  SnapshotState snapshots;
  uint64_t had_common =
      0;  // a step that all servers of this run once had; 0: none that it heard of
};

struct RecoveryPlan {
  enum class Action {
    kRollback,     // all servers, to `step`
    kHigherEpoch,  // a server is already at `epoch_seen`: the board has to issue a higher one
    kRefuse,       // `message` says what a human has to put right
  };
  Action action = Action::kRollback;
  uint64_t step = 0;
  uint64_t epoch_seen = 0;
  std::string message;
};
RecoveryPlan PlanRecovery(const std::vector<ServerState>& servers, uint64_t epoch);

}  // namespace mf
