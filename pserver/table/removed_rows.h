// Rows that are there no more, but may be in the last snapshot: the next one has to take them away.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace mf {

class RemovedRows {
 public:
  /// From now on a snapshot may have rows: what is removed before is in none.
  void Expect() { saved_ = true; }
  /// `clock`: ChangeClock::now.
  void Add(uint64_t row, uint32_t clock) {
    if (saved_) rows_.push_back({row, clock});
  }
  /// Those removed after clock time `since` that are not there again: rising, each once. What was
  /// removed up to then is forgotten.
  template <class IsThere>
  std::vector<uint64_t> Since(int64_t since, const IsThere& is_there) {
    std::erase_if(rows_, [since](const Removed& one) { return one.clock <= since; });
    std::vector<uint64_t> rows;
    for (const Removed& one : rows_) {
      if (!is_there(one.row)) rows.push_back(one.row);
    }
    std::sort(rows.begin(), rows.end());
    rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
    return rows;
  }

 private:
  struct Removed {
    uint64_t row;
    uint32_t clock;
  };
  bool saved_ = false;
  std::vector<Removed> rows_;
};

}  // namespace mf
