#include "pserver/bucket_counts.h"

#include <array>
#include <bit>
#include <cmath>

#include "common/check.h"

namespace mf {
namespace {
constexpr uint64_t kDirectRowsMax = 65'536;  // 1 MiB of counts a table
constexpr size_t kFewHits = 1024;
}  // namespace

BucketCounts::BucketCounts(uint64_t rows)
    : rows_(rows),
      bin_shift_(std::max(0, std::countr_zero(rows) - std::countr_zero(kBucketBins))),
      sparse_(rows > kDirectRowsMax),
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

/// A row whose last hit was in step `from` (0: none) is hit in step `to`.
void BucketCounts::MoveInWindow(uint64_t from, uint64_t to) {
  Recent& then = recent_[from % kCoverageSteps];
  if (from != 0 && then.step == from) --then.rows;
  Recent& now = recent_[to % kCoverageSteps];
  if (now.step != to) now = {to, 0};  // what stood there has left the window
  ++now.rows;
}

TableBuckets BucketCounts::Summarise(uint64_t step) const {
  TableBuckets table;
  table.rows = rows_;
  table.hits = hits_;
  table.dead = rows_ - alive_;
  table.top1 = top1_;
  std::copy(std::begin(bins_), std::end(bins_), table.bins);
  for (const Recent& recent : recent_) {
    if (recent.step + kCoverageSteps > step) table.covered += recent.rows;
  }
  if (hits_ > 0) table.entropy = Entropy();
  return table;
}

/// ln N - sum h ln h / N. Slots are given in order of arrival, so the sum must not depend on
/// theirs: rows of few hits are counted by their hits, and all others are added as whole numbers.
double BucketCounts::Entropy() const {
  std::array<uint64_t, kFewHits> rows_of{};  // by hits
  __extension__ using Wide = unsigned __int128;
  Wide fixed = 0;  // in units of 2^-40
  for (const Count& count : counts_) {
    const uint64_t hits = count.hits;
    if (hits < kFewHits) {
      ++rows_of[hits];
    } else {
      const double term = static_cast<double>(hits) * std::log(static_cast<double>(hits));
      fixed += static_cast<Wide>(term * 0x1p40);
    }
  }
  double sum = static_cast<double>(fixed) * 0x1p-40;
  for (size_t hits = 2; hits < kFewHits; ++hits) {
    const double h = static_cast<double>(hits);
    sum += static_cast<double>(rows_of[hits]) * h * std::log(h);
  }
  const double all = static_cast<double>(hits_);
  return std::max(0.0, std::log(all) - sum / all);
}

}  // namespace mf
