// Which rows of one table training hits, and how often (DESIGN 7). Counted where a contribution is
// accumulated, so that replays and evaluation count nothing; all numbers are functions of the
// counts alone, so they are the same for any number of servers, for pull and for pushdown.
// One thread at a time per object.
#pragma once

#include <cstdint>
#include <vector>

#include "common/bucket_summary.h"
#include "common/kernels/pairs.h"
#include "pserver/row_index.h"

namespace mf {

class BucketCounts {
 public:
  /// `rows`: a power of two.
  explicit BucketCounts(uint64_t rows);

  /// `hits` more of `row` in step `step` (from 1; steps do not fall).
  void Add(uint64_t row, uint64_t hits, uint64_t step) {
    Count& count = counts_[Slot(row)];
    count.hits += hits;
    count.last_step = static_cast<uint32_t>(step);
  }
  /// The same for all groups of a micro-batch.
  void AddGroups(const RowGroups& groups, uint64_t step) {
    constexpr size_t kAhead = 16;
    const size_t count = groups.rows.size();
    for (size_t g = 0; g < count; ++g) {
      if (g + kAhead < count) Prefetch(groups.rows[g + kAhead]);
      Add(groups.rows[g], groups.begin[g + 1] - groups.begin[g], step);
    }
  }
  /// All numbers as they are in step `step`, in one pass over the rows: 1 to 6 ns each.
  TableBuckets Summarise(uint64_t step) const;

 private:
  struct Count {
    uint64_t hits = 0;
    uint32_t last_step = 0;  // of the last hit; 0: none
  };
  void Prefetch(uint64_t row) const {
    if (sparse_) {
      index_.Prefetch(row);
    } else {
      __builtin_prefetch(&counts_[row], 1);
    }
  }
  size_t Slot(uint64_t row);
  const uint64_t rows_;
  const int bin_shift_;
  const bool sparse_;          // rows that were never hit take no memory
  RowIndex index_;             // sparse only
  std::vector<Count> counts_;  // by row, or by slot
};

}  // namespace mf
