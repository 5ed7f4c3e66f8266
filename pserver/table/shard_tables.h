// All tensors of a run as one server holds them: its columns of every table, the steps that they
// have seen, and the memory that they share.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/base/thread_pool.h"
#include "common/run/run_description.h"
#include "pserver/table/tensor_shard.h"
#include "pserver/table/update_history.h"

namespace mf {

struct ShardTables {
  struct Options {
    uint32_t shard = 0;
    uint32_t shards = 1;
    uint64_t memory_bytes = 0;     // tables that do not fit are sparse
    bool writes_snapshots = true;  // the state may have to be kept twice
    bool only_read = false;        // Settle() will be called
  };

  explicit ShardTables(const RunDescription& run) : history(run.tensors) {}

  /// Every tensor as it is made from the seed, before the first step. What fits the memory is
  /// addressed directly, the smallest tensors first (DESIGN 2.8). References outlive the object.
  void Build(const RunDescription& run, const Options& options, ThreadPool& pool);
  /// After loading: the tables are only read from now on, and the memory of moments is free. Rows
  /// are as after history.count() steps, so that nothing may be appended to it.
  void Settle();
  void Drop();  // takes no memory

  UpdateHistory history;
  ChangeClock clock;
  uint32_t last_update = 0;  // of the rows that were loaded: an applied step of `history`
  RequestScratch scratch;
  std::unique_ptr<PageArena> arena;          // of the tensors' state
  std::unique_ptr<PageArena> moments_arena;  // of their moments, if they are only read
  std::vector<std::unique_ptr<TensorShard>> tensors;
};

}  // namespace mf
