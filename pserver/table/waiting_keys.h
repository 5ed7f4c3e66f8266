// Keys of one table that were hit and have no row yet, with their hits so far: a keyed tensor may
// give a key its row with its n-th hit only (TensorSpec::admit_hits). Bounded: of too many, those
// that were hit longest ago are forgotten, and begin to count again when they come again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "pserver/table/removed_rows.h"

namespace mf {

class WaitingKeys {
 public:
  struct State {
    uint32_t hits = 0;
    uint32_t at = 0;  // applied steps when it was hit last
  };
  /// Memory of a key, about: an entry of std::unordered_map and its share of the buckets.
  static constexpr size_t kBytesEach = 48;

  /// 0: it is not counted.
  uint32_t HitsOf(uint64_t row) const {
    const auto found = keys_.find(row);
    return found == keys_.end() ? 0 : found->second.state.hits;
  }
  size_t size() const { return keys_.size(); }

  // `clock`: ChangeClock::now, for ChangedSince().
  void Set(uint64_t row, State state, uint32_t clock) { keys_[row] = {state, clock}; }
  void Erase(uint64_t row, uint32_t clock);
  /// Forgets keys until `most` are left: those hit longest ago, of these the lowest rows.
  void Limit(size_t most, uint32_t clock);
  /// Forgets those that were hit last in applied step `last` or before.
  void Expire(uint32_t last, uint32_t clock);

  struct Change {
    uint64_t row = 0;
    bool removed = false;
    State state = {};
  };
  /// What a snapshot has to hold that stands on one of clock time `since` (-1: on none): rising.
  /// What was removed up to then is not told again.
  std::vector<Change> ChangedSince(int64_t since);
  void Restore(uint64_t row, State state) {
    keys_[row] = {state, 0};
    removed_.Expect();
  }

 private:
  struct Key {
    State state;
    uint32_t changed = 0;
  };

  std::unordered_map<uint64_t, Key> keys_;
  RemovedRows removed_;
};

}  // namespace mf
