// Which rows of one table training hits, and how often (DESIGN 7). Counted where a contribution is
// accumulated, so that replays and evaluation count nothing; all numbers are functions of the
// counts alone, so they are the same for any number of servers, for pull and for pushdown.
// One thread at a time per object.
#pragma once

#include <cstdint>
#include <vector>

#include "common/bucket_summary.h"
#include "pserver/row_index.h"

namespace mf {

class BucketCounts {
 public:
  explicit BucketCounts(uint64_t rows);

  /// `hits` more of `row` in step `step` (from 1; steps do not fall).
  void Add(uint64_t row, uint64_t hits, uint64_t step) {
    const size_t slot = Slot(row);
    hits_[slot] += hits;
    last_step_[slot] = static_cast<uint32_t>(step);
  }
  /// All numbers as they are in step `step`.
  TableBuckets Summarise(uint64_t step) const;

 private:
  size_t Slot(uint64_t row);

  const uint64_t rows_;
  const bool sparse_;                // rows that were never hit take no memory
  RowIndex index_;                   // sparse only
  std::vector<uint64_t> hits_;       // by row, or by slot
  std::vector<uint32_t> last_step_;  // of the last hit; 0: none
};

}  // namespace mf
