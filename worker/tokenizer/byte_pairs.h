// Byte-pair encoding of one word (Sennrich, Haddow, Birch, ACL 2016; over bytes: Radford et al.
// 2019): of all neighbours that a rule merges, those of the first rule are merged, the leftmost
// first, until no rule is left.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace mf {

class BytePairs {
 public:
  /// Says that `left` and `right` become `merged`; rules are added in the order of their ranks. Of
  /// two for the same neighbours the later one counts.
  void AddMerge(uint32_t left, uint32_t right, uint32_t merged);

  /// Merges `ids` in place.
  void Merge(std::vector<uint32_t>* ids) const;

 private:
  struct Rule {
    uint32_t rank = 0, merged = 0;
  };
  struct Hash {
    size_t operator()(uint64_t pair) const {
      pair *= 0x9E3779B97F4A7C15;
      return static_cast<size_t>(pair ^ pair >> 32);
    }
  };
  const Rule* Find(uint32_t left, uint32_t right) const;

  std::unordered_map<uint64_t, Rule, Hash> rules_;  // by left << 32 | right
  uint32_t next_rank_ = 0;
};

/// The ids of words that were met of late, for one thread: text repeats its words. What it takes is
/// bounded.
class WordCache {
 public:
  WordCache() : slots_(kSlots) {}

  /// Appends the ids of the word. False if it is not known.
  bool Find(std::string_view word, std::vector<uint32_t>* ids) const;
  void Keep(std::string_view word, const std::vector<uint32_t>& ids);
  void Clear();

 private:
  static constexpr size_t kSlots = size_t{1} << 15;
  static constexpr size_t kBytesMax = 23, kIdsMax = 9;
  struct Slot {  // one cache line
    uint32_t ids[kIdsMax];
    uint8_t count = 0, bytes = 0;
    char word[kBytesMax];
  };
  static size_t SlotOf(std::string_view word);

  std::vector<Slot> slots_;
};

}  // namespace mf
