// Which part of a tensor a server owns: a contiguous run of column blocks of every row
// (DESIGN 2.2).
#pragma once

#include <cstdint>
#include <vector>

#include "common/run/column_blocks.h"
#include "common/run/tensor_spec.h"

namespace mf {

struct TensorLayout {
  TensorSpec spec;
  ColumnRange columns;              // of the tensor; begin is a multiple of 16
  std::vector<ColumnRange> blocks;  // relative to columns.begin
  size_t stride = 0;                // floats of a stored row: columns.size() padded to 16

  size_t width() const { return static_cast<size_t>(columns.size()); }
};

inline TensorLayout LayoutOf(const TensorSpec& spec, int64_t column_blocks, int64_t shard,
                             int64_t shards) {
  const std::vector<ColumnRange> all = ColumnBlocks(spec.columns, column_blocks);
  const BlockRange own = ShardBlocks(static_cast<int64_t>(all.size()), shard, shards);
  TensorLayout layout;
  layout.spec = spec;
  layout.columns = {all[static_cast<size_t>(own.begin)].begin,
                    all[static_cast<size_t>(own.end) - 1].end};
  for (int64_t block = own.begin; block < own.end; ++block) {
    const ColumnRange& range = all[static_cast<size_t>(block)];
    layout.blocks.push_back({range.begin - layout.columns.begin, range.end - layout.columns.begin});
  }
  layout.stride = (layout.width() + 15) / 16 * 16;
  return layout;
}

}  // namespace mf
