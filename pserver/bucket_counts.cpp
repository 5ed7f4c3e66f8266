#include "pserver/bucket_counts.h"

#include <algorithm>
#include <cmath>

namespace mf {
namespace {
constexpr uint64_t kDirectRowsMax = 65'536;  // 768 KiB of counts a table
}

BucketCounts::BucketCounts(uint64_t rows)
    : rows_(rows), sparse_(rows > kDirectRowsMax), index_(sparse_ ? UINT64_MAX : 0) {
  if (sparse_) return;
  hits_.resize(rows);
  last_step_.resize(rows);
}

size_t BucketCounts::Slot(uint64_t row) {
  if (!sparse_) return static_cast<size_t>(row);
  const size_t slot = index_.Insert(row);
  if (slot == hits_.size()) {
    hits_.push_back(0);
    last_step_.push_back(0);
  }
  return slot;
}

TableBuckets BucketCounts::Summarise(uint64_t step) const {
  TableBuckets table;
  table.rows = rows_;
  uint64_t alive = 0;
  const uint64_t bins = std::min<uint64_t>(kBucketBins, rows_);
  for (size_t slot = 0; slot < hits_.size(); ++slot) {
    const uint64_t hits = hits_[slot];
    if (hits == 0) continue;
    ++alive;
    table.hits += hits;
    table.top1 = std::max(table.top1, hits);
    if (last_step_[slot] + kCoverageSteps > step) ++table.covered;
    const uint64_t row = sparse_ ? index_.rows()[slot] : slot;
    table.bins[row * bins / rows_] += hits;
  }
  table.dead = rows_ - alive;
  if (table.hits == 0) return table;
  // H = ln N - sum h ln h / N, added in an order that is a function of the counts: slots are given
  // in order of arrival.
  std::vector<uint64_t> sorted;
  if (sparse_) {
    sorted = hits_;
    std::sort(sorted.begin(), sorted.end());
  }
  double sum = 0;
  for (const uint64_t hits : sparse_ ? sorted : hits_) {
    if (hits > 0) sum += static_cast<double>(hits) * std::log(static_cast<double>(hits));
  }
  const double all = static_cast<double>(table.hits);
  table.entropy = std::max(0.0, std::log(all) - sum / all);
  return table;
}

}  // namespace mf
