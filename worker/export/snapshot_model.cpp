#include "worker/export/snapshot_model.h"

#include <numeric>
#include <utility>

#include "common/base/machine_limits.h"
#include "common/kernels/wire.h"
#include "pserver/offline/snapshot_tables.h"
#include "worker/config/tensors.h"

namespace mf {

SnapshotModel::SnapshotModel() = default;
SnapshotModel::~SnapshotModel() = default;

Result<std::unique_ptr<SnapshotModel>> SnapshotModel::Open(const std::string& dir, ThreadPool& pool,
                                                           uint64_t step) {
  std::unique_ptr<SnapshotModel> model(new SnapshotModel());
  MF_ASSIGN_OR_RETURN(model->tables_, SnapshotTables::Open(dir, step, DefaultTableBytes(), pool));
  Result<Config> config = ConfigOf(model->tables_->run());
  if (!config.ok()) return Status::Invalid(dir + ": " + config.status().message());
  model->config_ = std::move(config).value();
  return model;
}

const std::vector<TensorSpec>& SnapshotModel::tensors() const { return tables_->run().tensors; }

const RunDescription& SnapshotModel::run() const { return tables_->run(); }

uint64_t SnapshotModel::UpdatedCount(const TensorSpec& tensor) const {
  return tables_->UpdatedCount(tensor);
}

double SnapshotModel::NeverUpdatedFactor(const TensorSpec& tensor) const {
  return tables_->NeverUpdatedFactor(tensor);
}

uint64_t SnapshotModel::step() const { return tables_->step(); }

DenseTensors SnapshotModel::Dense() {
  DenseTensors dense(tensors().size());
  for (const TensorSpec& tensor : tensors()) {
    if (tensor.kind != TensorKind::kDense) continue;
    std::vector<float>& values = dense[tensor.id];
    values.resize(tensor.values());
    // Of tables in memory, which can always be read.
    (void)ReadRange(tensor, 0, tensor.total_rows(), values.data());
  }
  return dense;
}

Status SnapshotModel::ReadRange(const TensorSpec& tensor, uint64_t first, uint64_t count,
                                float* values) {
  rows_.resize(count);
  std::iota(rows_.begin(), rows_.end(), first);
  return ReadRows(tensor, rows_, values);
}

Status SnapshotModel::ReadRows(const TensorSpec& tensor, const std::vector<uint64_t>& rows,
                               float* values) {
  tables_->Pull(tensor, rows, values);
  return Status::Ok();
}

Result<std::vector<uint64_t>> SnapshotModel::UpdatedRows(const TensorSpec& tensor, uint64_t first,
                                                         uint64_t most) {
  return tables_->UpdatedRows(tensor, first, most);
}

Status SnapshotModel::Forward(const TensorSpec& tensor, const Hashes& hashes, float* y) {
  buckets_.resize(hashes.pairs * hashes.tokens);
  WidenIndices(hashes.indices.data(), hashes.index_bytes, buckets_.size(), buckets_.data());
  tables_->Forward(tensor, buckets_, hashes.weights.as<float>(), hashes.tokens, y);
  return Status::Ok();
}

Status SnapshotModel::Backward(const TensorSpec& tensor, const Hashes&, const Buffer&, float*) {
  return Status::Failed("tensor " + tensor.name + ": snapshots cannot be trained");
}

}  // namespace mf
