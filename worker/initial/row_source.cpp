#include "worker/initial/row_source.h"

#include <algorithm>
#include <cstring>

#include "pserver/table/layout.h"
#include "pserver/table/optimizer.h"
#include "pserver/table/row_format.h"

namespace mf {
namespace {

size_t StateBytes(const TensorSpec& tensor) {
  return RowBytes(Optimizer(tensor).planes(), static_cast<size_t>(tensor.columns));
}

}  // namespace

uint64_t RowsAtOnce(const TensorSpec& tensor) {
  return std::max<uint64_t>(1, kStatesAtOnce / StateBytes(tensor));
}

std::vector<std::byte> StatesOf(const TensorSpec& tensor, const float* values, size_t rows) {
  const size_t bytes = StateBytes(tensor);
  const auto columns = static_cast<size_t>(tensor.columns);
  std::vector<std::byte> states(rows * bytes);  // updated at 0, moments of 0
  for (size_t i = 0; i < rows; ++i) {
    std::memcpy(PlaneIn(states.data() + i * bytes, 0, columns), values + i * columns,
                columns * sizeof(float));
  }
  return states;
}

Buffer StatesFor(const RowStates& rows, const TensorSpec& tensor, int64_t column_blocks,
                 int64_t shard, int64_t shards) {
  const int planes = Optimizer(tensor).planes();
  const TensorLayout layout = LayoutOf(tensor, column_blocks, shard, shards);
  const size_t whole = StateBytes(tensor), part = RowBytes(planes, layout.width());
  Buffer states(rows.rows.size() * part);
  for (size_t i = 0; i < rows.rows.size(); ++i) {
    CutRow(rows.states.data() + i * whole, planes, static_cast<size_t>(tensor.columns),
           layout.columns, reinterpret_cast<std::byte*>(states.data()) + i * part);
  }
  return states;
}

}  // namespace mf
