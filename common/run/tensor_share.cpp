#include "common/run/tensor_share.h"

#include <utility>

#include "common/base/buffer.h"

namespace mf {
namespace {

/// The first of `rows` in table `table` or a later one.
size_t FirstOfTable(const TensorSpec& tensor, int64_t table, const void* rows, size_t count) {
  if (table == tensor.tables) return count;
  const uint64_t first = static_cast<uint64_t>(table) * static_cast<uint64_t>(tensor.rows);
  size_t begin = 0, end = count;
  while (begin < end) {
    const size_t middle = begin + (end - begin) / 2;
    if (LoadUnaligned<uint64_t>(rows, middle) < first) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

}  // namespace

TensorShare ShareOf(const TensorSpec& tensor, int64_t column_blocks, int64_t shard,
                    int64_t shards) {
  if (tensor.kind == TensorKind::kKeyed) {
    const BlockRange tables = ShardBlocks(tensor.tables, shard, shards);
    return {{tables.begin, tables.end},
            {0, tensor.columns},
            ColumnBlocks(tensor.columns, column_blocks)};
  }
  ColumnShare share = ColumnShareOf(tensor.columns, column_blocks, shard, shards);
  return {{0, tensor.tables}, share.columns, std::move(share.blocks), share.first_block};
}

int64_t MostShards(const TensorSpec& tensor, int64_t column_blocks) {
  return tensor.kind == TensorKind::kKeyed ? tensor.tables
                                           : ColumnBlockCount(tensor.columns, column_blocks);
}

RunShares SharesOf(const std::vector<TensorSpec>& tensors, int64_t column_blocks, size_t shards) {
  RunShares shares;
  for (const TensorSpec& tensor : tensors) {
    shares.emplace_back();
    for (size_t shard = 0; shard < shards; ++shard) {
      shares.back().push_back(ShareOf(tensor, column_blocks, static_cast<int64_t>(shard),
                                      static_cast<int64_t>(shards)));
    }
  }
  return shares;
}

RowSlice RowsOfShare(const TensorSpec& tensor, const TensorShare& share, const void* rows,
                     size_t count) {
  if (share.tables.size() == tensor.tables) return {0, count};
  return {FirstOfTable(tensor, share.tables.begin, rows, count),
          FirstOfTable(tensor, share.tables.end, rows, count)};
}

}  // namespace mf
