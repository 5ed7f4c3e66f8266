#include "worker/export/trained_model.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/base/files.h"
#include "common/base/input_file.h"
#include "worker/export/loaded_model.h"
#include "worker/export/local_exchange.h"
#include "worker/export/snapshot_model.h"

namespace mf {
namespace {

/// Rows of an exported file.
class FileTensors final : public TensorReader {
 public:
  explicit FileTensors(const LoadedModel& model) : model_(model) {}
  Status ReadRange(const TensorSpec& tensor, uint64_t first, uint64_t count,
                   float* values) override {
    const auto columns = static_cast<uint64_t>(tensor.columns);
    std::copy_n(Values(tensor) + first * columns, count * columns, values);
    return Status::Ok();
  }
  Status ReadRows(const TensorSpec& tensor, const std::vector<uint64_t>& rows,
                  float* values) override {
    for (const uint64_t row : rows) {
      MF_RETURN_IF_ERROR(ReadRange(tensor, row, 1, values));
      values += tensor.columns;
    }
    return Status::Ok();
  }
  Result<std::vector<uint64_t>> UpdatedRows(const TensorSpec&, uint64_t, uint64_t) override {
    return Status::Invalid(
        "an exported file does not say which rows were updated (--rows touched); give the run's "
        "snapshots");
  }

 private:
  const float* Values(const TensorSpec& tensor) const {
    const float* table = model_.table(tensor);
    return table != nullptr ? table : (*model_.dense())[tensor.id].data();
  }
  const LoadedModel& model_;
};

class OfExport final : public TrainedModel {
 public:
  OfExport(std::unique_ptr<LoadedModel> model, ThreadPool& pool)
      : model_(std::move(model)), exchange_(*model_, pool), reader_(*model_) {}
  const Config& config() const override { return model_->config(); }
  const std::vector<TensorSpec>& tensors() const override { return model_->tensors(); }
  const std::shared_ptr<const DenseTensors>& dense() const override { return model_->dense(); }
  Exchange& exchange() override { return exchange_; }
  TensorReader& reader() override { return reader_; }
  std::optional<uint64_t> step() const override { return std::nullopt; }

 private:
  const std::unique_ptr<LoadedModel> model_;
  LocalExchange exchange_;
  FileTensors reader_;
};

class OfSnapshots final : public TrainedModel {
 public:
  explicit OfSnapshots(std::unique_ptr<SnapshotModel> model)
      : model_(std::move(model)), dense_(std::make_shared<const DenseTensors>(model_->Dense())) {}
  const Config& config() const override { return model_->config(); }
  const std::vector<TensorSpec>& tensors() const override { return model_->tensors(); }
  const std::shared_ptr<const DenseTensors>& dense() const override { return dense_; }
  Exchange& exchange() override { return *model_; }
  TensorReader& reader() override { return *model_; }
  std::optional<uint64_t> step() const override { return model_->step(); }

 private:
  const std::unique_ptr<SnapshotModel> model_;
  const std::shared_ptr<const DenseTensors> dense_;
};

}  // namespace

Result<std::unique_ptr<TrainedModel>> TrainedModel::Open(const std::string& path,
                                                         const std::string& config_file,
                                                         ThreadPool& pool) {
  std::unique_ptr<TrainedModel> opened;
  if (!IsFolder(path)) {
    MF_ASSIGN_OR_RETURN(auto model, LoadedModel::Open(path, config_file));
    opened = std::make_unique<OfExport>(std::move(model), pool);
    return opened;
  }
  if (!config_file.empty()) {
    return Status::Invalid(
        "--config: snapshots describe their model; it is for a file that does not");
  }
  for (const char* inside : {"/state", "/model.safetensors"}) {
    if (!FileExists(path + inside)) continue;
    return Status::Invalid(path + ": no folder of snapshots; name " + path + inside);
  }
  MF_ASSIGN_OR_RETURN(auto model, SnapshotModel::Open(path, pool));
  return Of(std::move(model));
}

std::unique_ptr<TrainedModel> TrainedModel::Of(std::unique_ptr<SnapshotModel> model) {
  return std::make_unique<OfSnapshots>(std::move(model));
}

}  // namespace mf
