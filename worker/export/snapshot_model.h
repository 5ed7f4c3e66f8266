// A model from the snapshots of its run, as LoadedModel is one from an export: tables in memory,
// and memory layers over them. No servers; nothing on disk is changed, and a cluster may run on the
// same folder meanwhile.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/base/buffer.h"
#include "common/base/thread_pool.h"
#include "common/run/run_description.h"
#include "worker/config/config.h"
#include "worker/exchange/exchange.h"
#include "worker/export/tensor_reader.h"
#include "worker/model/model.h"

namespace mf {

class SnapshotTables;

class SnapshotModel final : public TensorReader, public Exchange {
 public:
  /// `step`, or if that is 0 the newest one, of which `dir`, a --data folder, has the snapshots of
  /// all servers. `pool`
  /// outlives the model. kInvalid, naming what is missing, if there is none or it is of no language
  /// model; kFailed, naming the file, if it is damaged.
  static Result<std::unique_ptr<SnapshotModel>> Open(const std::string& dir, ThreadPool& pool,
                                                     uint64_t step = 0);
  ~SnapshotModel() override;

  const Config& config() const { return config_; }
  const std::vector<TensorSpec>& tensors() const;
  const RunDescription& run() const;
  uint64_t step() const;
  /// Of a tensor's rows that were updated; and what the others have become: their initial values
  /// times this.
  uint64_t UpdatedCount(const TensorSpec& tensor) const;
  double NeverUpdatedFactor(const TensorSpec& tensor) const;
  /// The dense tensors, whole.
  DenseTensors Dense();

  Status ReadRange(const TensorSpec& tensor, uint64_t first, uint64_t count,
                   float* values) override;
  Status ReadRows(const TensorSpec& tensor, const std::vector<uint64_t>& rows,
                  float* values) override;
  Result<std::vector<uint64_t>> UpdatedRows(const TensorSpec& tensor, uint64_t first,
                                            uint64_t most) override;

  Status Forward(const TensorSpec& tensor, const Hashes& hashes, float* y) override;
  /// kFailed: snapshots cannot be trained.
  Status Backward(const TensorSpec& tensor, const Hashes& hashes, const Buffer& dy,
                  float* dweights) override;

 private:
  SnapshotModel();

  Config config_;
  std::unique_ptr<SnapshotTables> tables_;
  std::vector<uint64_t> rows_;     // of a range
  std::vector<uint32_t> buckets_;  // of a Forward()
};

}  // namespace mf
