#include "pserver/table/row_index.h"

#include <algorithm>

namespace mf {
namespace {
constexpr uint64_t kDirectRowsMax = 1 << 17;  // 512 KiB of slots
constexpr size_t kFirstSlots = 64;
constexpr size_t kAhead = 16;
constexpr uint32_t kRowsPerPause = 1 << 14;  // below a millisecond
}  // namespace

RowIndex::RowIndex(uint64_t rows) : direct_(rows <= kDirectRowsMax) {
  slots_.assign(direct_ ? rows : kFirstSlots, kNone);
}

size_t RowIndex::Bucket(uint64_t row) const {
  // Fibonacci hashing: neighbouring rows spread, the high bits are the best ones.
  return (row * 0x9E3779B97F4A7C15ull) >> (64 - __builtin_ctzll(slots_.size()));
}

uint32_t RowIndex::Find(uint64_t row) const {
  if (direct_) return slots_[row];
  const size_t mask = slots_.size() - 1;
  for (size_t i = Bucket(row);; i = (i + 1) & mask) {
    if (slots_[i] == kNone || rows_[slots_[i]] == row) return slots_[i];
  }
}

uint32_t RowIndex::Insert(uint64_t row, const std::function<void()>& pause) {
  if (direct_) {
    if (slots_[row] != kNone) return slots_[row];
    return slots_[row] = NewSlot(row);
  }
  if ((rows_.size() + 1) * 4 > slots_.size() * 3) Grow(pause);  // at most three quarters full
  const size_t mask = slots_.size() - 1;
  size_t i = Bucket(row);
  for (; slots_[i] != kNone; i = (i + 1) & mask) {
    if (rows_[slots_[i]] == row) return slots_[i];
  }
  return slots_[i] = NewSlot(row);
}

uint32_t RowIndex::NewSlot(uint64_t row) {
  if (free_.empty()) {
    rows_.push_back(row);  // memory may end
    return static_cast<uint32_t>(rows_.size() - 1);
  }
  const uint32_t slot = free_.back();
  free_.pop_back();
  rows_[slot] = row;
  return slot;
}

uint32_t RowIndex::Erase(uint64_t row) {
  size_t hole = row;
  const size_t mask = slots_.size() - 1;
  if (!direct_) {
    hole = Bucket(row);
    while (slots_[hole] != kNone && rows_[slots_[hole]] != row) hole = (hole + 1) & mask;
  }
  const uint32_t slot = slots_[hole];
  if (slot == kNone) return kNone;
  free_.push_back(slot);  // first: memory may end
  // Whoever was moved on because this place was taken moves up.
  for (size_t i = hole; !direct_;) {
    i = (i + 1) & mask;
    if (slots_[i] == kNone) break;
    const size_t home = Bucket(rows_[slots_[i]]);
    if (((i - home) & mask) < ((i - hole) & mask)) continue;
    slots_[hole] = slots_[i];
    hole = i;
  }
  slots_[hole] = kNone;
  rows_[slot] = kNoRow;
  return slot;
}

void RowIndex::Grow(const std::function<void()>& pause) {
  slots_.assign(slots_.size() * 2, kNone);
  const size_t mask = slots_.size() - 1;
  for (uint32_t slot = 0; slot < rows_.size(); ++slot) {
    if (pause != nullptr && slot % kRowsPerPause == kRowsPerPause - 1) pause();
    if (rows_[slot] == kNoRow) continue;
    // Each is somewhere else in memory.
    if (slot + kAhead < rows_.size()) Prefetch(rows_[slot + kAhead]);
    size_t i = Bucket(rows_[slot]);
    while (slots_[i] != kNone) i = (i + 1) & mask;
    slots_[i] = slot;
  }
}

void RowIndex::Prefetch(uint64_t row) const {
  __builtin_prefetch(&slots_[direct_ ? row : Bucket(row)]);
}

void RowIndex::Clear() {
  if (direct_) {
    for (const uint64_t row : rows_) {
      if (row != kNoRow) slots_[row] = kNone;
    }
  } else {
    std::fill(slots_.begin(), slots_.end(), kNone);
  }
  rows_.clear();
  free_.clear();
}

}  // namespace mf
