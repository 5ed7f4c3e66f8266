// The tables of a run as its snapshots hold them, put together from the folders of all servers and
// read in this process: no server, no message. Nothing on disk is changed, and a cluster may run on
// the same folder meanwhile.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/base/thread_pool.h"
#include "common/run/run_description.h"
#include "pserver/table/shard_tables.h"

namespace mf {

/// Of runs without keyed tensors.
class SnapshotTables {
 public:
  /// `dir`: a --data folder with one run, or a run's folder, with the snapshots of all servers.
  /// `step`, or if that is 0 the newest one that all have, is loaded; tables that do not fit
  /// `memory_bytes` keep only what was trained of them. `pool` outlives the object. kInvalid,
  /// naming what is missing, if there is no such step; kFailed, naming the file, if it is damaged.
  static Result<std::unique_ptr<SnapshotTables>> Open(const std::string& dir, uint64_t step,
                                                      uint64_t memory_bytes, ThreadPool& pool);

  const RunDescription& run() const { return run_; }
  uint64_t step() const { return step_; }

  /// values f32 [rows][columns] of global rows, rising.
  void Pull(const TensorSpec& tensor, std::span<const uint64_t> rows, float* values);
  uint64_t UpdatedCount(const TensorSpec& tensor) const;
  /// The others are their initial values times this.
  double NeverUpdatedFactor(const TensorSpec& tensor) const;
  /// Updated global rows >= first, rising, at most `most`.
  std::vector<uint64_t> UpdatedRows(const TensorSpec& tensor, uint64_t first, uint64_t most) const;
  /// y f32 [tokens][columns]: for every token the sum over its pairs of weight * row; `buckets` and
  /// `weights` [pairs][tokens]. The same bits as from any number of servers.
  void Forward(const TensorSpec& tensor, std::span<const uint32_t> buckets, const float* weights,
               size_t tokens, float* y);

 private:
  SnapshotTables() = default;
  /// Puts each server's columns of `rows` rows at their place; `read` fills f32 [rows][width].
  template <class Read>
  void PutTogether(const TensorSpec& tensor, size_t rows, float* values, Read read);

  RunDescription run_;
  uint64_t step_ = 0;
  std::vector<std::unique_ptr<ShardTables>> shards_;
  std::vector<float> part_;  // what one server has of an answer
};

}  // namespace mf
