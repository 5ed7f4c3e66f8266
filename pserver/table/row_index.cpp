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
  const uint32_t next = static_cast<uint32_t>(rows_.size());
  if (direct_) {
    if (slots_[row] != kNone) return slots_[row];
    rows_.push_back(row);  // first: memory may end, and a slot has a row
    slots_[row] = next;
    return next;
  }
  if ((rows_.size() + 1) * 4 > slots_.size() * 3) Grow(pause);  // at most three quarters full
  const size_t mask = slots_.size() - 1;
  size_t i = Bucket(row);
  for (; slots_[i] != kNone; i = (i + 1) & mask) {
    if (rows_[slots_[i]] == row) return slots_[i];
  }
  rows_.push_back(row);
  slots_[i] = next;
  return next;
}

void RowIndex::Grow(const std::function<void()>& pause) {
  slots_.assign(slots_.size() * 2, kNone);
  const size_t mask = slots_.size() - 1;
  for (uint32_t slot = 0; slot < rows_.size(); ++slot) {
    if (pause != nullptr && slot % kRowsPerPause == kRowsPerPause - 1) pause();
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
    for (const uint64_t row : rows_) slots_[row] = kNone;
  } else {
    std::fill(slots_.begin(), slots_.end(), kNone);
  }
  rows_.clear();
}

}  // namespace mf
