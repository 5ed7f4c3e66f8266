#include "pserver/table/bucket_counts.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "common/base/check.h"

namespace mf {
namespace {
constexpr uint64_t kDirectCountsMax = 65'536;  // 512 KiB of counts a table
constexpr size_t kFewHits = 1024;
}  // namespace

BucketCounts::BucketCounts(uint64_t rows)
    : rows_(rows),
      bin_shift_(std::max(0, std::countr_zero(rows) - std::countr_zero(kBucketBins))),
      sparse_(rows > kDirectCountsMax),
      index_(sparse_ ? UINT64_MAX : 0) {
  MF_CHECK(std::has_single_bit(rows));
  if (!sparse_) counts_.resize(rows);
}

size_t BucketCounts::Slot(uint64_t row) {
  if (!sparse_) return static_cast<size_t>(row);
  const size_t slot = index_.Insert(row);
  if (slot == counts_.size()) counts_.emplace_back();
  return slot;
}

void BucketCounts::Carry(size_t slot, uint64_t times) { carried_[slot] += times; }

void BucketCounts::AddGroups(const RowGroups& groups, uint64_t step) {
  constexpr size_t kAhead = 16;
  const size_t count = groups.rows.size();
  const uint32_t* const rows = groups.rows.data();
  const uint32_t* const begin = groups.begin.data();
  if (sparse_) {
    for (size_t g = 0; g < count; ++g) {
      if (g + kAhead < count) index_.Prefetch(rows[g + kAhead]);
      Add(rows[g], begin[g + 1] - begin[g], step);
    }
    return;
  }
  Count* const counts = counts_.data();
  const size_t ahead = count - std::min(count, kAhead);
  size_t g = 0;
  for (; g < ahead; ++g) {
    __builtin_prefetch(&counts[rows[g + kAhead]], 1);
    AddTo(counts, rows[g], begin[g + 1] - begin[g], static_cast<uint32_t>(step));
  }
  for (; g < count; ++g) {
    AddTo(counts, rows[g], begin[g + 1] - begin[g], static_cast<uint32_t>(step));
  }
}

uint64_t BucketCounts::HitsAt(size_t slot) const {
  const uint64_t hits = counts_[slot].hits;
  const auto carried = carried_.find(slot);
  return carried == carried_.end() ? hits : hits | carried->second << 32;
}

TableBuckets BucketCounts::Summarise(uint64_t step) const {
  TableBuckets table;
  table.rows = rows_;
  uint64_t alive = 0;
  // H = ln N - sum h ln h / N. Slots are given in order of arrival, so the sum must not depend on
  // theirs: rows of few hits are counted by their hits, all others are added as whole numbers.
  std::array<uint64_t, kFewHits> rows_of{};  // by hits
  __extension__ using Wide = unsigned __int128;
  Wide fixed = 0;  // in units of 2^-40
  const bool carried = !carried_.empty();
  for (size_t slot = 0; slot < counts_.size(); ++slot) {
    const auto [low_hits, last_step] = counts_[slot];
    const uint64_t hits = carried ? HitsAt(slot) : low_hits;
    if (hits == 0) continue;
    ++alive;
    table.hits += hits;
    table.top1 = std::max(table.top1, hits);
    table.covered += uint64_t{last_step} + kCoverageSteps > step ? 1 : 0;
    table.bins[(sparse_ ? index_.rows()[slot] : slot) >> bin_shift_] += hits;
    if (hits < kFewHits) {
      ++rows_of[hits];
    } else {
      const double term = static_cast<double>(hits) * std::log(static_cast<double>(hits));
      fixed += static_cast<Wide>(term * 0x1p40);
    }
  }
  table.dead = rows_ - alive;
  if (table.hits == 0) return table;
  double sum = static_cast<double>(fixed) * 0x1p-40;
  for (size_t hits = 2; hits < kFewHits; ++hits) {
    if (rows_of[hits] == 0) continue;
    const double h = static_cast<double>(hits);
    sum += static_cast<double>(rows_of[hits]) * h * std::log(h);
  }
  const double all = static_cast<double>(table.hits);
  table.entropy = std::max(0.0, std::log(all) - sum / all);
  return table;
}

}  // namespace mf
