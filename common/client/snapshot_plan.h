// What to do about snapshots, as pure functions of all servers' answers (DESIGN 2.6, 2.7): whoever
// holds commit or recover decides the same. No socket, thread, clock or file inside.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/net/snapshot_state.h"
#include "common/net/step.h"

namespace mf {

/// Steps that every one of the servers (at least one) has published, rising.
std::vector<uint64_t> CommonSteps(const std::vector<SnapshotState>& servers);
/// The newest of them; 0 if there is none.
uint64_t NewestCommonStep(const std::vector<SnapshotState>& servers);

/// What servers do when a step ends, if `due` is what the coordinator wants and `keep` common
/// snapshots stay.
SnapshotPlan PlanSnapshots(const std::vector<SnapshotState>& servers, SnapshotDue due,
                           uint64_t keep);

/// What recovery looks at of a server (RunState).
struct ServerState {
  FinishedStep finished;  // epoch 0: it has no state yet
  SnapshotState snapshots;
  uint64_t had_common =
      0;  // a step that all servers of this run once had; 0: none that it heard of
};

struct RecoveryPlan {
  enum class Action {
    kRollback,     // all servers, to `step`
    kHigherEpoch,  // a server is already at `epoch_seen`: the coordinator has to issue a higher one
    kRefuse,       // `message` says what a human has to put right
  };
  Action action = Action::kRollback;
  uint64_t step = 0;
  uint64_t epoch_seen = 0;
  std::string message;
};
RecoveryPlan PlanRecovery(const std::vector<ServerState>& servers, uint64_t epoch);

/// A step that is better to go back to than the newest that all have published: a server that was
/// ended in good order has published it, and the others have it published, are writing it, or hold
/// it in their tables. They are asked to save it before anything is rolled back. 0: there is none.
uint64_t StepToSave(const std::vector<ServerState>& servers);

}  // namespace mf
