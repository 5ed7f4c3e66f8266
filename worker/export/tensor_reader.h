// What an export reads: rows of a run's tensors in one finished state.
#pragma once

#include <cstdint>
#include <vector>

#include "common/base/status.h"
#include "common/run/tensor_spec.h"

namespace mf {

class TensorReader {
 public:
  virtual ~TensorReader() = default;

  /// values f32 [count][columns] of global rows first, first + 1, ...
  virtual Status ReadRange(const TensorSpec& tensor, uint64_t first, uint64_t count,
                           float* values) = 0;
  /// values f32 [rows][columns] of global rows, rising.
  virtual Status ReadRows(const TensorSpec& tensor, const std::vector<uint64_t>& rows,
                          float* values) = 0;
  /// Updated global rows >= first, rising, at most `most`.
  virtual Result<std::vector<uint64_t>> UpdatedRows(const TensorSpec& tensor, uint64_t first,
                                                    uint64_t most) = 0;
};

}  // namespace mf
