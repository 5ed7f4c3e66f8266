// Which part of a tensor a server owns: a contiguous run of column blocks of every row
// (DESIGN 2.2).
#pragma once

#include <cstdint>
#include <utility>
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
  ColumnShare share = ColumnShareOf(spec.columns, column_blocks, shard, shards);
  TensorLayout layout;
  layout.spec = spec;
  layout.columns = share.columns;
  layout.blocks = std::move(share.blocks);
  layout.stride = PaddedColumns(layout.width());
  return layout;
}

}  // namespace mf
