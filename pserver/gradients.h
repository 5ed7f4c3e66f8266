// The gradient of one table in the open step: an arena of the rows that were hit. Micro-batches are
// added in order by the caller; a micro-batch is summed from zero, then added once (DESIGN 2.3).
#pragma once

#include <cstdint>
#include <vector>

#include "common/kernels/pairs.h"
#include "pserver/layout.h"
#include "pserver/mapped_memory.h"
#include "pserver/row_index.h"

namespace mf {

class Gradients {
 public:
  explicit Gradients(const TensorLayout& layout);

  /// Adds one micro-batch's pairs: for every group of `groups`, the sum of weight * dy. dy is
  /// [tokens][dy_stride] f32 of the server's own columns.
  void AddPairs(const RowGroups& groups, const void* dy, size_t dy_stride);
  /// Gives rows slots for Add(); serial.
  void Insert(const uint64_t* rows, size_t count);
  /// Adds finished sums `values` [count][width] of any alignment for row `row`; rows may be added
  /// by several threads, each row by one. REQUIRES Insert() of the row in this micro-batch.
  void Add(uint64_t row, const void* values);

  /// Sorts the rows that were hit; call once after the last Add.
  void Seal();
  /// Hit rows, rising; their gradients [stride], padded with zeros.
  const std::vector<uint64_t>& rows() const { return sorted_; }
  const float* gradient(uint64_t row) const { return slots_.at(index_.Find(row)); }
  bool empty() const { return index_.size() == 0; }
  /// Memory held, whatever of it the open step uses.
  uint64_t bytes() const { return slots_.bytes() + index_.bytes(); }
  void Clear();

 private:
  const TensorLayout& layout_;
  RowIndex index_;
  FloatSlots slots_;
  std::vector<uint8_t> fresh_;  // by slot: nothing was added in this step yet
  std::vector<uint64_t> sorted_;
  std::vector<float*> destinations_;  // of AddPairs, kept warm
  std::vector<uint8_t> first_;
};

}  // namespace mf
