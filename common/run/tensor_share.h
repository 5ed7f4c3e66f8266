// Which part of a tensor a server has (DESIGN 2.2): some column blocks of every row, or of keyed
// tensors all columns of the rows of some tables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/run/column_blocks.h"
#include "common/run/tensor_spec.h"

namespace mf {

/// Tables [begin, end).
struct TableRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

struct TensorShare {
  TableRange tables;
  ColumnRange columns;              // of the tensor
  std::vector<ColumnRange> blocks;  // relative to columns.begin
  int64_t first_block = 0;          // of the tensor

  bool Has(int64_t table) const { return tables.begin <= table && table < tables.end; }
};

/// What shard `shard` of `shards` has. `column_blocks`: RunRules::column_blocks.
TensorShare ShareOf(const TensorSpec& tensor, int64_t column_blocks, int64_t shard, int64_t shards);
/// Over how many servers the tensor can be cut.
int64_t MostShards(const TensorSpec& tensor, int64_t column_blocks);

/// Of every tensor, by server.
using RunShares = std::vector<std::vector<TensorShare>>;
RunShares SharesOf(const std::vector<TensorSpec>& tensors, int64_t column_blocks, size_t shards);

/// Of `rows`, global and rising, those [begin, end) that a share has.
struct RowSlice {
  size_t begin = 0;
  size_t end = 0;
  size_t size() const { return end - begin; }
};
/// `rows` may have any alignment.
RowSlice RowsOfShare(const TensorSpec& tensor, const TensorShare& share, const void* rows,
                     size_t count);

}  // namespace mf
