#include "common/config/sharding.h"

#include <algorithm>

namespace mf {

std::vector<ColumnRange> ColumnBlocks(int64_t columns, int64_t override_blocks) {
  constexpr int64_t kUnit = 16;
  const int64_t units = (columns + kUnit - 1) / kUnit;
  int64_t blocks = std::clamp<int64_t>((columns + 32) / 64, 4, 64);
  if (override_blocks > 0) blocks = override_blocks;
  // A block holds whole units of 16 columns; the last unit may be partial.
  blocks = std::clamp<int64_t>(blocks, 1, std::max<int64_t>(1, columns / kUnit));
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

namespace {
const TensorSpec& Narrowest(const Config& config, const std::vector<TensorSpec>& tensors) {
  MF_CHECK(!tensors.empty());
  return *std::min_element(tensors.begin(), tensors.end(), [&](const auto& a, const auto& b) {
    return ColumnBlocks(a.columns, config.model.column_blocks).size() <
           ColumnBlocks(b.columns, config.model.column_blocks).size();
  });
}
}  // namespace

int64_t MaxShards(const Config& config, const std::vector<TensorSpec>& tensors) {
  const TensorSpec& narrowest = Narrowest(config, tensors);
  return static_cast<int64_t>(ColumnBlocks(narrowest.columns, config.model.column_blocks).size());
}

Status CheckShards(const Config& config, const std::vector<TensorSpec>& tensors, int64_t shards) {
  if (shards < 1) return Status::Invalid("shards: " + std::to_string(shards) + " is below 1");
  const int64_t most = MaxShards(config, tensors);
  if (shards <= most) return Status::Ok();
  const TensorSpec& narrowest = Narrowest(config, tensors);
  return Status::Invalid("shards: " + std::to_string(shards) + " servers, but tensor " +
                         narrowest.name + " has only " + std::to_string(most) +
                         " column blocks; use at most " + std::to_string(most) +
                         " servers or raise model.column_blocks");
}

}  // namespace mf
