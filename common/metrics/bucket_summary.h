// How evenly training hits the rows of a hash table: one table's numbers as the servers count them
// (pserver/table/bucket_counts.h) and `buckets` replies carry them, and a memory layer's over its
// tables.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace mf {

inline constexpr size_t kBucketBins = 64;
inline constexpr uint64_t kCoverageSteps = 100;  // the window of `covered`

/// One table. Only 8-byte numbers: a reply's payload is an array of these.
struct TableBuckets {
  uint64_t rows = 0;
  uint64_t hits = 0;                // since the servers started or went back
  uint64_t covered = 0;             // rows hit in the last kCoverageSteps steps
  uint64_t dead = 0;                // rows not hit at all
  uint64_t top1 = 0;                // hits of the most popular row
  double entropy = 0;               // of the hits, in nats
  uint64_t bins[kBucketBins] = {};  // hits by bucket * kBucketBins / rows (fewer rows: by bucket)

  double coverage_ratio() const { return Ratio(covered, rows); }
  /// 1 is uniform. A table of one row is.
  double entropy_ratio() const {
    return rows < 2 ? 1.0 : entropy / std::log(static_cast<double>(rows));
  }
  double top1_ratio() const { return Ratio(top1, hits); }

 private:
  static double Ratio(uint64_t part, uint64_t whole) {
    return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
  }
};
static_assert(sizeof(TableBuckets) == (6 + kBucketBins) * sizeof(uint64_t));

/// Mean and worst over a layer's tables.
struct MeanAndWorst {
  double mean = 0, worst = 0;
};
struct LayerBuckets {
  uint64_t tables = 0, rows = 0, hits = 0, dead_rows = 0;  // of all tables together
  MeanAndWorst coverage, entropy, top1, dead;
};

inline LayerBuckets SummariseLayer(const std::vector<TableBuckets>& tables) {
  LayerBuckets layer;
  layer.tables = tables.size();
  for (const TableBuckets& table : tables) {
    layer.rows += table.rows;
    layer.hits += table.hits;
    layer.dead_rows += table.dead;
  }
  enum class Worst { kLowest, kHighest };
  const auto over = [&tables](Worst worst, auto value) {
    MeanAndWorst result;
    for (size_t k = 0; k < tables.size(); ++k) {
      const double x = value(tables[k]);
      result.mean += x / static_cast<double>(tables.size());
      const bool worse = worst == Worst::kLowest ? x < result.worst : x > result.worst;
      if (k == 0 || worse) result.worst = x;
    }
    return result;
  };
  layer.coverage = over(Worst::kLowest, [](const auto& t) { return t.coverage_ratio(); });
  layer.entropy = over(Worst::kLowest, [](const auto& t) { return t.entropy_ratio(); });
  layer.top1 = over(Worst::kHighest, [](const auto& t) { return t.top1_ratio(); });
  layer.dead = over(Worst::kHighest, [](const auto& t) { return static_cast<double>(t.dead); });
  return layer;
}

}  // namespace mf
