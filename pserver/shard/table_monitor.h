// Tells the metrics what is in the tables: rows, bytes and how evenly their buckets are hit
// (DESIGN 7). Looking at a table's buckets costs time in proportion to its rows, so a few tables
// are looked at at a time, for less than a millisecond, with pauses that keep the cost below 1% of
// a core. No clock inside.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/metrics/metrics.h"
#include "pserver/table/tensor_shard.h"

namespace mf {

class TableMonitor {
 public:
  /// `metrics` outlives it; nullptr: nothing is told.
  explicit TableMonitor(Metrics* metrics) : metrics_(metrics) {}

  void StepEnded(uint64_t finished, bool applied);
  void RolledBack(uint64_t finished);
  /// Looks at a few more tables if it is time to. `step`: the open one. Tensors must be the same
  /// until RolledBack() is called.
  void Tick(const std::vector<std::unique_ptr<TensorShard>>& tensors, uint64_t step, double now);

 private:
  void SampleTensor(const TensorShard& tensor);
  void TellBuckets(const std::string& layer, const std::vector<TableBuckets>& tables, size_t i);

  Metrics* const metrics_;
  size_t next_ = 0;                   // tensor
  std::vector<TableBuckets> looked_;  // at its tables so far
  double not_before_ = 0;
  uint64_t dense_rows_ = 0, dense_bytes_ = 0;  // of the tensors looked at in this round
  // What the counters have been told, by tensor, for differences.
  struct Told {
    uint64_t hits = 0, admitted = 0, expired = 0;
    uint64_t first_bins[kBucketBins] = {}, last_bins[kBucketBins] = {};
  };
  std::vector<Told> told_;
};

}  // namespace mf
