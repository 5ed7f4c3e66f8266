// The state that a run begins with, where it is not made from the seed: a worker brings it in parts
// (InitialiseRequest), and it stays on disk, a snapshot in a folder of its own, so that the run can
// go back to its beginning whatever becomes of the workers. A state machine: the time is passed in.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/base/thread_pool.h"
#include "common/net/messages.h"
#include "common/run/run_description.h"
#include "pserver/snapshot/snapshot_store.h"
#include "pserver/table/layout.h"

namespace mf {

class InitialState {
 public:
  /// A worker that has been silent for so long is not waited for any more.
  static constexpr double kSilentSeconds = 10;

  /// All outlive it. `info` says whose state it is; its step is kInitialStep.
  InitialState(SnapshotStore& store, ThreadPool& pool, const RunDescription& run,
               SnapshotInfo info);

  bool there() const {
    const std::vector<uint64_t> published = store_.Published();
    return std::find(published.begin(), published.end(), kInitialStep) != published.end();
  }
  /// Takes a part of worker `session`; one that comes again is taken once. kUnavailable while
  /// another worker brings the state, kStale if the attempt has ended and has to begin anew,
  /// kInvalid for rows that are none of the run's, kFailed if the disk does not take it.
  Status Take(const InitialiseRequest& request, const Frames& payload, uint64_t session,
              double now);

 private:
  Status Write(const InitialiseRequest& request, const Frames& payload);
  Status CheckRows(const InitialiseRequest& request, const Frames& payload) const;
  Status Put(const InitialiseRequest& request, const Frames& payload);
  Status PutRates(const Frame& rates);
  size_t RowBytesOf(uint32_t tensor) const;
  uint64_t RowsIn(const Frames& payload) const { return payload[0].size() / sizeof(uint64_t); }

  SnapshotStore& store_;
  ThreadPool& pool_;
  const RunDescription& run_;
  SnapshotInfo info_;
  std::vector<TensorLayout> layouts_;
  // The attempt that is under way; 0: none.
  uint64_t attempt_ = 0, session_ = 0, parts_ = 0, rows_ = 0;
  double heard_ = 0;
  std::pair<uint32_t, uint64_t> next_ = {};  // the lowest tensor and row that may still come
  uint32_t last_update_ = 0;                 // of the rows so far
};

}  // namespace mf
