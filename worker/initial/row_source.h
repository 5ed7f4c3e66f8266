// Rows that servers take for the beginning of a run (RunDescription::initial): weights alone, or
// with all that an optimizer knows of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/base/buffer.h"
#include "common/base/status.h"
#include "common/run/run_description.h"

namespace mf {

/// Rows of one tensor, rising.
struct RowStates {
  uint32_t tensor = 0;
  std::vector<uint64_t> rows = {};     // global
  std::vector<std::byte> states = {};  // with all columns, in the form of InitialiseRequest
};

class RowSource {
 public:
  virtual ~RowSource() = default;
  virtual uint64_t total_rows() const = 0;
  /// Begins at the first row, for a run with tensors of the same sizes, which outlives the reading.
  virtual Status Begin(const RunDescription& of) = 0;
  /// The next rows, some megabytes; false at the end.
  virtual Result<bool> Next(RowStates* rows) = 0;
  /// At the end: the learning rates of the steps that the optimizer has applied.
  virtual const std::vector<double>& rates() const = 0;
};

/// A source gives so many bytes of states at once, or a row if that is more.
inline constexpr size_t kStatesAtOnce = 4 << 20;
/// How many rows of a tensor these are.
uint64_t RowsAtOnce(const TensorSpec& tensor, int64_t column_blocks);
/// The states of rows whose weights are `values` [rows][columns], for an optimizer that begins
/// anew.
std::vector<std::byte> StatesOf(const TensorSpec& tensor, int64_t column_blocks,
                                const float* values, size_t rows);
/// Whether they are states of rows that are cut into `column_blocks`.
bool StatesFit(const RowStates& rows, const TensorSpec& tensor, int64_t column_blocks);
/// What server `shard` of `shards` takes of the rows of `tensor`: their numbers and their states,
/// of which there may be none.
Frames FramesFor(const RowStates& rows, const TensorSpec& tensor, int64_t column_blocks,
                 int64_t shard, int64_t shards);

}  // namespace mf
