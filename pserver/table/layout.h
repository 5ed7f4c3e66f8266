// A tensor as a server holds it: what it has of it (DESIGN 2.2), and how wide its rows are.
#pragma once

#include <cstdint>

#include "common/run/tensor_share.h"
#include "common/run/tensor_spec.h"

namespace mf {

struct TensorLayout {
  TensorSpec spec;
  TensorShare share;
  size_t stride = 0;  // floats of a stored row: share.columns padded to 16

  size_t width() const { return static_cast<size_t>(share.columns.size()); }
  /// Whether the global row is one of its own.
  bool Has(uint64_t row) const {
    const uint64_t table = row / static_cast<uint64_t>(spec.rows);
    return table < static_cast<uint64_t>(spec.tables) && share.Has(static_cast<int64_t>(table));
  }
};

inline TensorLayout LayoutOf(const TensorSpec& spec, int64_t column_blocks, int64_t shard,
                             int64_t shards) {
  TensorLayout layout;
  layout.spec = spec;
  layout.share = ShareOf(spec, column_blocks, shard, shards);
  layout.stride = PaddedColumns(layout.width());
  return layout;
}

}  // namespace mf
