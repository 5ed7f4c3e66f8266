// What is said of snapshots in messages: what a server has, what the coordinator wants, what
// servers are to do.
#pragma once

#include <cstdint>
#include <vector>

namespace mf {

/// Which states of the run a server could go back to. Step 0 is made from the seed and is not
/// listed.
struct SnapshotState {
  std::vector<uint64_t> published = {};  // rising
  uint64_t writing = 0;                  // the step of the one that is being written; 0: none
  bool operator==(const SnapshotState&) const = default;
};

/// Whether the coordinator wants a snapshot at the end of a step.
enum class SnapshotDue : uint16_t {
  kNo,
  kWhenIdle,  // now, or at a later step when no server is still writing the last one
  kNow,       // after the last step
};

/// What a server does about snapshots when a step ends.
struct SnapshotPlan {
  bool take = false;    // of the state after the step
  uint64_t common = 0;  // the newest step that all servers have published
  /// Steps that servers delete: older than the keep-th newest common one, and those that can never
  /// become common, as some server neither has them nor is writing them (a step passes once).
  /// Never the newest common step.
  std::vector<uint64_t> discard = {};
  bool operator==(const SnapshotPlan&) const = default;
};

}  // namespace mf
