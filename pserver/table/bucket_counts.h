// Which rows of one table training hits, and how often (DESIGN 7). Counted where a contribution is
// accumulated, so that replays and evaluation count nothing; all numbers are functions of the
// counts alone, so they are the same for any number of servers, for pull and for pushdown.
// One thread at a time per object.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "common/kernels/pairs.h"
#include "common/metrics/bucket_summary.h"
#include "pserver/table/row_index.h"

namespace mf {

class BucketCounts {
 public:
  /// `rows`: a power of two.
  explicit BucketCounts(uint64_t rows);

  /// `hits` more of `row` in step `step` (from 1; steps do not fall).
  void Add(uint64_t row, uint64_t hits, uint64_t step) {
    const size_t slot = Slot(row);
    AddTo(counts_.data(), slot, hits, static_cast<uint32_t>(step));
  }
  /// The same for all groups of a micro-batch.
  void AddGroups(const RowGroups& groups, uint64_t step);
  /// All numbers as they are in step `step`, in one pass over the rows: 1 to 6 ns each.
  TableBuckets Summarise(uint64_t step) const;

 private:
  /// Small, because counting a micro-batch costs what it takes to bring these into the cache.
  struct Count {
    uint32_t hits = 0;       // modulo 2^32
    uint32_t last_step = 0;  // of the last hit; 0: none
  };
  /// `counts` is counts_.data(): in a loop the compiler need not load it again for every row.
  void AddTo(Count* counts, size_t slot, uint64_t hits, uint32_t step) {
    const uint64_t sum = counts[slot].hits + hits;
    if (sum > UINT32_MAX) Carry(slot, sum >> 32);
    counts[slot] = {static_cast<uint32_t>(sum), step};
  }
  void Carry(size_t slot, uint64_t times);
  size_t Slot(uint64_t row);
  uint64_t HitsAt(size_t slot) const;
  const uint64_t rows_;
  const int bin_shift_;
  const bool sparse_;                   // rows that were never hit take no memory
  RowIndex index_;                      // sparse only
  std::vector<Count> counts_;           // by row, or by slot
  std::map<size_t, uint64_t> carried_;  // by the same: how often 2^32 hits were reached
};

}  // namespace mf
