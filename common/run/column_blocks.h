// How the columns of a tensor are cut into blocks and the blocks given to servers (DESIGN 2.2).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mf {

/// Columns [begin, end). `begin` is a multiple of 16 for every block.
struct ColumnRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

/// How many column blocks a tensor of `columns` columns has: h/64 rounded, at least 4, at most 64;
/// narrower tensors have h/16 blocks, at least 1. `override_blocks` > 0 replaces the count (capped
/// at one block per 16 columns).
int64_t ColumnBlockCount(int64_t columns, int64_t override_blocks);
/// These blocks, as equal as multiples of 16 columns allow (the first ones are the larger ones, the
/// last takes the remainder).
std::vector<ColumnRange> ColumnBlocks(int64_t columns, int64_t override_blocks);

/// Blocks [begin, end) of `blocks` that shard `shard` of `shards` owns.
struct BlockRange {
  int64_t begin = 0;
  int64_t end = 0;
};
BlockRange ShardBlocks(int64_t blocks, int64_t shard, int64_t shards);

/// What shard `shard` of `shards` owns of a tensor: a contiguous run of column blocks of every row.
struct ColumnShare {
  ColumnRange columns;              // of the tensor
  std::vector<ColumnRange> blocks;  // relative to columns.begin
  int64_t first_block = 0;          // of the tensor
};
ColumnShare ColumnShareOf(int64_t columns, int64_t override_blocks, int64_t shard, int64_t shards);

/// Floats of a row as kernels want it: the next multiple of 16.
inline size_t PaddedColumns(size_t columns) { return (columns + 15) / 16 * 16; }

}  // namespace mf
