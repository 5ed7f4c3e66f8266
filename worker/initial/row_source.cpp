#include "worker/initial/row_source.h"

#include <algorithm>
#include <cstring>

#include "common/run/tensor_share.h"
#include "pserver/table/row_format.h"

namespace mf {

uint64_t RowsAtOnce(const TensorSpec& tensor, int64_t column_blocks) {
  return std::max<uint64_t>(1, kStatesAtOnce / RowFormat::Whole(tensor, column_blocks).bytes());
}

std::vector<std::byte> StatesOf(const TensorSpec& tensor, int64_t column_blocks,
                                const float* values, size_t rows) {
  const RowFormat format = RowFormat::Whole(tensor, column_blocks);
  const auto columns = static_cast<size_t>(tensor.columns);
  std::vector<std::byte> states(rows * format.bytes());  // updated at 0, moments of 0
  for (size_t i = 0; i < rows; ++i) {
    std::memcpy(format.PlaneIn(states.data() + i * format.bytes(), 0), values + i * columns,
                columns * sizeof(float));
  }
  return states;
}

bool StatesFit(const RowStates& rows, const TensorSpec& tensor, int64_t column_blocks) {
  return rows.states.size() == rows.rows.size() * RowFormat::Whole(tensor, column_blocks).bytes();
}

Frames FramesFor(const RowStates& rows, const TensorSpec& tensor, int64_t column_blocks,
                 int64_t shard, int64_t shards) {
  const TensorShare share = ShareOf(tensor, column_blocks, shard, shards);
  const RowSlice own = RowsOfShare(tensor, share, rows.rows.data(), rows.rows.size());
  const RowFormat whole = RowFormat::Whole(tensor, column_blocks), part(tensor, share);
  Buffer numbers(own.size() * sizeof(uint64_t)), states(own.size() * part.bytes());
  if (own.size() > 0) std::memcpy(numbers.data(), rows.rows.data() + own.begin, numbers.size());
  for (size_t i = 0; i < own.size(); ++i) {
    part.Cut(whole, rows.states.data() + (own.begin + i) * whole.bytes(),
             states.data() + i * part.bytes());
  }
  return {numbers, states};
}

}  // namespace mf
