#include "common/run/column_blocks.h"

#include <algorithm>

namespace mf {

namespace {
constexpr int64_t kUnit = 16;  // columns: a block holds whole units, the last one may be partial
}

int64_t ColumnBlockCount(int64_t columns, int64_t override_blocks) {
  int64_t blocks = std::clamp<int64_t>((columns + 32) / 64, 4, 64);
  if (override_blocks > 0) blocks = override_blocks;
  return std::clamp<int64_t>(blocks, 1, std::max<int64_t>(1, columns / kUnit));
}

std::vector<ColumnRange> ColumnBlocks(int64_t columns, int64_t override_blocks) {
  const int64_t units = (columns + kUnit - 1) / kUnit;
  const int64_t blocks = ColumnBlockCount(columns, override_blocks);
  std::vector<ColumnRange> ranges;
  int64_t begin = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t size = units / blocks + (block < units % blocks ? 1 : 0);
    const int64_t end = std::min(columns, begin + size * kUnit);
    ranges.push_back({begin, end});
    begin = end;
  }
  return ranges;
}

BlockRange ShardBlocks(int64_t blocks, int64_t shard, int64_t shards) {
  return {shard * blocks / shards, (shard + 1) * blocks / shards};
}

ColumnShare ColumnShareOf(int64_t columns, int64_t override_blocks, int64_t shard, int64_t shards) {
  const std::vector<ColumnRange> all = ColumnBlocks(columns, override_blocks);
  const BlockRange own = ShardBlocks(static_cast<int64_t>(all.size()), shard, shards);
  ColumnShare share;
  share.first_block = own.begin;
  share.columns = {all[static_cast<size_t>(own.begin)].begin,
                   all[static_cast<size_t>(own.end) - 1].end};
  for (int64_t block = own.begin; block < own.end; ++block) {
    const ColumnRange& range = all[static_cast<size_t>(block)];
    share.blocks.push_back({range.begin - share.columns.begin, range.end - share.columns.begin});
  }
  return share;
}

}  // namespace mf
