#include "worker/tokenizer/byte_pairs.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <queue>

namespace mf {
namespace {

constexpr uint32_t kNone = 0xFFFFFFFF;

uint64_t Key(uint32_t left, uint32_t right) { return uint64_t{left} << 32 | right; }

/// A merge that was possible when it was found.
struct Candidate {
  uint32_t rank, at, merged;
  bool operator>(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : at > other.at;
  }
};

struct Symbol {
  uint32_t id, before, after;  // places of its neighbours; `id` is kNone once it was merged away
};

}  // namespace

void BytePairs::AddMerge(uint32_t left, uint32_t right, uint32_t merged) {
  rules_[Key(left, right)] = {next_rank_++, merged};
}

const BytePairs::Rule* BytePairs::Find(uint32_t left, uint32_t right) const {
  const auto found = rules_.find(Key(left, right));
  return found == rules_.end() ? nullptr : &found->second;
}

void BytePairs::Merge(std::vector<uint32_t>* ids) const {
  const auto count = static_cast<uint32_t>(ids->size());
  if (count < 2) return;
  std::vector<Symbol> symbols(count);
  for (uint32_t i = 0; i < count; ++i) symbols[i] = {(*ids)[i], i == 0 ? kNone : i - 1, i + 1};
  symbols.back().after = kNone;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  const auto consider = [&](uint32_t at) {
    if (at == kNone || symbols[at].after == kNone) return;
    const Rule* const rule = Find(symbols[at].id, symbols[symbols[at].after].id);
    if (rule != nullptr) candidates.push({rule->rank, at, rule->merged});
  };
  for (uint32_t i = 0; i + 1 < count; ++i) consider(i);
  while (!candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    Symbol& left = symbols[best.at];
    if (left.id == kNone || left.after == kNone) continue;
    Symbol& right = symbols[left.after];
    const Rule* const rule = Find(left.id, right.id);
    if (rule == nullptr || rule->merged != best.merged) continue;  // another neighbour by now
    left.id = best.merged;
    left.after = right.after;
    right.id = kNone;
    if (left.after != kNone) symbols[left.after].before = best.at;
    consider(left.before);
    consider(best.at);
  }
  ids->clear();
  for (const Symbol& symbol : symbols) {
    if (symbol.id != kNone) ids->push_back(symbol.id);
  }
}

size_t WordCache::SlotOf(std::string_view word) {
  return std::hash<std::string_view>()(word) % kSlots;
}

bool WordCache::Find(std::string_view word, std::vector<uint32_t>* ids) const {
  if (word.size() > kBytesMax) return false;
  const Slot& slot = slots_[SlotOf(word)];
  if (slot.count == 0 || std::string_view(slot.word, slot.bytes) != word) return false;
  ids->insert(ids->end(), slot.ids, slot.ids + slot.count);
  return true;
}

void WordCache::Keep(std::string_view word, const std::vector<uint32_t>& ids) {
  if (word.size() > kBytesMax || ids.empty() || ids.size() > kIdsMax) return;
  Slot& slot = slots_[SlotOf(word)];
  std::copy(ids.begin(), ids.end(), slot.ids);
  slot.count = static_cast<uint8_t>(ids.size());
  slot.bytes = static_cast<uint8_t>(word.size());
  std::memcpy(slot.word, word.data(), word.size());
}

void WordCache::Clear() { std::fill(slots_.begin(), slots_.end(), Slot{}); }

}  // namespace mf
