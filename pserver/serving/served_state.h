// The state of a run in one snapshot as a read-only server has it: its share of every table.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/base/status.h"
#include "common/base/thread_pool.h"
#include "common/run/run_description.h"
#include "pserver/offline/merged_snapshot.h"
#include "pserver/table/shard_tables.h"

namespace mf {

class ServedState {
 public:
  struct Options {
    std::string from;   // as of MergedSnapshot, with the snapshots of any number of servers
    uint64_t step = 0;  // 0: the newest that all of them have
    uint32_t shard = 0;
    uint32_t shards = 1;
    uint64_t memory_bytes = 0;  // budget for tables addressed directly
    int threads = 1;            // of the kernels
  };
  /// The snapshot, which stays readable while it is open. kInvalid if there is no such step;
  /// kFailed or kDamaged, naming the file, if it cannot be read.
  static Result<std::unique_ptr<MergedSnapshot>> Open(const Options& options);
  /// `goes_on` is asked now and then, with the part that is loaded, 0 to 1; kUnavailable once it
  /// says no. kInvalid for a run that so many servers cannot hold. kFailed or kDamaged, naming the
  /// file, if it cannot be read; kFailed if memory or threads end.
  static Result<std::unique_ptr<ServedState>> Load(MergedSnapshot& snapshot, const Options& options,
                                                   const std::function<bool(double)>& goes_on);

  const RunDescription& run() const { return run_; }
  uint64_t step() const { return step_; }
  /// To be read by one thread at a time.
  ShardTables& tables() { return tables_; }

 private:
  ServedState(const MergedSnapshot& snapshot, const Options& options);

  const RunDescription run_;
  const uint64_t step_;
  ThreadPool pool_;  // its own, so that one state is loaded while others are read
  ShardTables tables_;
};

}  // namespace mf
