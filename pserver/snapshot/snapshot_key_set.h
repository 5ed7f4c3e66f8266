// Which entries the live database of a snapshot store has, in memory: so that a snapshot can say
// how many entries it holds, and an increment that replaces all of them is seen as such. Where ids
// are dense, 64 bits for 64 neighbouring ids: 1 byte or less an entry, some 50 where they are
// scattered, beside rows of 200 bytes to 24 KiB. Rows of keyed tensors, of which there are many and
// which may be small, lie anywhere in 64 bits: 8 bytes each.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

#include "pserver/snapshot/snapshot_store.h"

namespace mf {

class SnapshotKeySet {
 public:
  /// False if the space has entries of another size. Quick where ids of a space rise.
  bool Add(uint32_t space, uint64_t id, size_t bytes) {
    Space& keys = spaces_[space];
    if (keys.entries() == 0) keys.entry_bytes = bytes;
    if (keys.entry_bytes != bytes) return false;
    if (id < kAnywhere) {
      uint64_t& word = keys.words[id / 64];
      keys.dense += (word & BitOf(id)) == 0;
      word |= BitOf(id);
    } else if (keys.anywhere.empty() || keys.anywhere.back() < id) {
      keys.anywhere.push_back(id);
    } else {
      const auto place = std::lower_bound(keys.anywhere.begin(), keys.anywhere.end(), id);
      if (*place != id) keys.anywhere.insert(place, id);
    }
    return true;
  }
  bool Has(uint32_t space, uint64_t id) const {
    const auto keys = spaces_.find(space);
    if (keys == spaces_.end()) return false;
    if (id >= kAnywhere)
      return std::binary_search(keys->second.anywhere.begin(), keys->second.anywhere.end(), id);
    const auto word = keys->second.words.find(id / 64);
    return word != keys->second.words.end() && (word->second & BitOf(id)) != 0;
  }
  /// Whether entries of `bytes` bytes go with what the space has.
  bool Fits(uint32_t space, size_t bytes) const {
    const auto keys = spaces_.find(space);
    return keys == spaces_.end() || keys->second.entries() == 0 ||
           keys->second.entry_bytes == bytes;
  }
  /// Takes over what `other` has. REQUIRES: no key is in both, and sizes fit.
  void Merge(SnapshotKeySet other) {
    for (auto& [space, keys] : other.spaces_) {
      Space& mine = spaces_[space];
      if (mine.entries() == 0) {
        mine = std::move(keys);
        continue;
      }
      mine.dense += keys.dense;
      for (const auto& [index, word] : keys.words) mine.words[index] |= word;
      const size_t before = mine.anywhere.size();
      mine.anywhere.insert(mine.anywhere.end(), keys.anywhere.begin(), keys.anywhere.end());
      std::inplace_merge(mine.anywhere.begin(),
                         mine.anywhere.begin() + static_cast<ptrdiff_t>(before),
                         mine.anywhere.end());
    }
  }
  /// REQUIRES: all that `other` has is in this.
  void Subtract(const SnapshotKeySet& other) {
    for (const auto& [space, keys] : other.spaces_) {
      if (keys.entries() == 0) continue;
      Space& mine = spaces_[space];
      mine.dense -= keys.dense;
      for (const auto& [index, word] : keys.words) {
        if ((mine.words[index] &= ~word) == 0) mine.words.erase(index);
      }
      auto gone = keys.anywhere.begin();
      std::erase_if(mine.anywhere, [&](uint64_t id) {
        while (gone != keys.anywhere.end() && *gone < id) ++gone;
        return gone != keys.anywhere.end() && *gone == id;
      });
    }
  }
  void Clear() { spaces_.clear(); }

  /// Of an entry of a space that has some.
  size_t EntryBytes(uint32_t space) const { return spaces_.at(space).entry_bytes; }

  /// Entries of spaces below `end`.
  uint64_t EntriesBelow(uint32_t end) const {
    uint64_t entries = 0;
    for (auto space = spaces_.begin(); space != spaces_.end() && space->first < end; ++space)
      entries += space->second.entries();
    return entries;
  }
  /// By space, of this and `added` together without `removed`. REQUIRES: no key of `added` is in
  /// this, and all of `removed` are.
  std::vector<SpaceCount> CountsWith(const SnapshotKeySet& added,
                                     const SnapshotKeySet& removed) const {
    std::map<uint32_t, SpaceCount> counts;
    const auto count = [&counts](const SnapshotKeySet& set, auto change) {
      for (const auto& [space, keys] : set.spaces_) {
        if (keys.entries() == 0) continue;
        SpaceCount& sum = counts[space];
        sum.space = space;
        change(sum.entries, keys.entries());
        change(sum.bytes, keys.entries() * keys.entry_bytes);
      }
    };
    const auto more = [](uint64_t& sum, uint64_t by) { sum += by; };
    count(*this, more);
    count(added, more);
    count(removed, [](uint64_t& sum, uint64_t by) { sum -= by; });
    std::vector<SpaceCount> list;
    for (const auto& [space, sum] : counts) {
      if (sum.entries > 0) list.push_back(sum);
    }
    return list;
  }

 private:
  // Rows of memory and dense tensors, and steps, are below it; of keyed ones hardly any.
  static constexpr uint64_t kAnywhere = uint64_t{1} << 48;

  struct Space {
    size_t entry_bytes = 0;
    uint64_t dense = 0;                            // entries in `words`
    std::unordered_map<uint64_t, uint64_t> words;  // id / 64 -> a bit for each id
    std::vector<uint64_t> anywhere;                // ids from kAnywhere on, rising

    uint64_t entries() const { return dense + anywhere.size(); }
  };
  static uint64_t BitOf(uint64_t id) { return uint64_t{1} << id % 64; }

  std::map<uint32_t, Space> spaces_;
};

}  // namespace mf
