// How the columns of a tensor are cut into blocks and the blocks given to servers (DESIGN 2.2).
#pragma once

#include <cstdint>
#include <vector>

#include "common/base/status.h"
#include "common/config/tensors.h"

namespace mf {

/// Columns [begin, end). `begin` is a multiple of 16 for every block.
struct ColumnRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

/// The column blocks of a tensor of `columns` columns: h/64 rounded, at least 4, at most 64, as
/// equal as multiples of 16 columns allow (the first ones are the larger ones, the last takes the
/// remainder); narrower tensors have h/16 blocks, at least 1. `override_blocks` > 0 replaces the
/// count (capped at one block per 16 columns).
std::vector<ColumnRange> ColumnBlocks(int64_t columns, int64_t override_blocks);

/// Blocks [begin, end) of `blocks` that shard `shard` of `shards` owns.
struct BlockRange {
  int64_t begin = 0;
  int64_t end = 0;
};
BlockRange ShardBlocks(int64_t blocks, int64_t shard, int64_t shards);

/// The largest number of servers that the tensors can be cut over: blocks of the narrowest one.
int64_t MaxShards(const Config& config, const std::vector<TensorSpec>& tensors);
/// kInvalid, naming the narrowest tensor, if `shards` is more than that.
Status CheckShards(const Config& config, const std::vector<TensorSpec>& tensors, int64_t shards);

}  // namespace mf
