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

}  // namespace mf
