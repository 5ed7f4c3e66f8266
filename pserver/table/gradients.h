// The gradient of one table in the open step: an arena of the rows that were hit. Micro-batches are
// added in order by the caller; a micro-batch is summed from zero, then added once (DESIGN 2.3).
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "common/kernels/pairs.h"
#include "pserver/table/kernels/rows.h"
#include "pserver/table/layout.h"
#include "pserver/table/mapped_memory.h"
#include "pserver/table/row_index.h"

namespace mf {

class Gradients {
 public:
  /// `layout` and `arena` outlive it.
  Gradients(const TensorLayout& layout, PageArena& arena);

  /// Adds one micro-batch's pairs: for every group of `groups`, the sum of weight * dy. dy is
  /// [tokens][dy_stride] f32 of the server's own columns.
  void AddPairs(const RowGroups& groups, const void* dy, size_t dy_stride, FirstWrites writes);
  /// Gives rows slots for Add(); serial. `hits`: u32 of each row, of any alignment; null: one each.
  void Insert(const uint64_t* rows, size_t count, const std::byte* hits = nullptr);
  /// Adds finished sums `values` [count][width] of any alignment for row `row`; rows may be added
  /// by several threads, each row by one. REQUIRES Insert() of the row in this micro-batch.
  void Add(uint64_t row, const void* values);

  /// Whether a row, with its hits in this step, takes part in it.
  using Admits = std::function<bool(uint64_t row, uint32_t hits)>;
  /// After the last Add: sorts the rows that were hit and sums their squares. Of those that are not
  /// admitted the gradient is dropped. Again does nothing.
  void Seal(const Admits& admits = {});
  /// One hit row and where its gradient lies.
  struct Hit {
    uint64_t row;
    uint32_t slot;
  };
  /// REQUIRES Seal(): the hit rows, rising; their gradients [stride], padded with zeros; squares by
  /// block, added by rising row, then column in 8 lanes (SquareSum).
  const std::vector<Hit>& hits() const { return hits_; }
  const float* gradient(const Hit& hit) const { return slots_.at<float>(hit.slot); }
  /// REQUIRES Seal(): the rows that were not admitted, rising.
  const std::vector<Hit>& refused() const { return refused_; }
  /// How often a row was hit. REQUIRES: TensorSpec::admit_hits > 1.
  uint32_t count(const Hit& hit) const { return counts_[hit.slot]; }
  double squares(size_t block) const { return squares_[block].Total(); }

  /// Memory held, whatever of it the open step uses.
  uint64_t bytes() const { return slots_.bytes() + index_.bytes(); }
  void Clear();

 private:
  void SortHits();

  const TensorLayout& layout_;
  RowIndex index_;
  Slots slots_;
  std::vector<uint8_t> fresh_;  // by slot: nothing was added in this step yet
  const bool counts_hits_;
  std::vector<uint32_t> counts_;  // by slot: hits in this step, if they are counted
  bool sealed_ = false;
  std::vector<Hit> hits_, refused_;
  std::vector<SquareSum> squares_;    // by block
  std::vector<float*> destinations_;  // of AddPairs, kept warm
  std::vector<uint8_t> first_;
};

}  // namespace mf
