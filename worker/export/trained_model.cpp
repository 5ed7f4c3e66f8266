#include "worker/export/trained_model.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/base/files.h"
#include "common/base/input_file.h"
#include "worker/export/loaded_model.h"
#include "worker/export/local_exchange.h"
#include "worker/export/safetensors_files.h"
#include "worker/export/server_model.h"
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

class AtServers final : public TrainedModel {
 public:
  explicit AtServers(std::unique_ptr<ServerModel> model) : model_(std::move(model)) {}
  const Config& config() const override { return model_->config(); }
  const std::vector<TensorSpec>& tensors() const override { return model_->tensors(); }
  const std::shared_ptr<const DenseTensors>& dense() const override { return model_->dense(); }
  Exchange& exchange() override { return *model_; }
  TensorReader& reader() override { return *model_; }
  std::optional<uint64_t> step() const override { return model_->step(); }
  Result<bool> TakeNewest(const Status& error) override { return model_->TakeNewest(error); }

 private:
  const std::unique_ptr<ServerModel> model_;
};

}  // namespace

Result<std::unique_ptr<TrainedModel>> TrainedModel::Open(const ModelPlace& place,
                                                         ThreadPool& pool) {
  const std::string& path = place.path;
  if (path.empty() && place.servers.empty()) {
    return Status::Invalid("--model or --pservers is required; see --help");
  }
  std::unique_ptr<TrainedModel> opened;
  const bool run = IsFolder(path) && (FileExists(path + "/state") || !HasSafetensors(path));
  if (place.servers.empty() && !run) {
    MF_ASSIGN_OR_RETURN(auto model, LoadedModel::Open(path, place.config));
    opened = std::make_unique<OfExport>(std::move(model), pool);
    return opened;
  }
  if (!place.config.empty()) {
    return Status::Invalid(
        "--config: snapshots and servers describe their model; it is for a file that does not");
  }
  if (!place.servers.empty()) {
    MF_ASSIGN_OR_RETURN(auto model, ServerModel::Open(place.servers, place.keys));
    opened = std::make_unique<AtServers>(std::move(model));
    return opened;
  }
  if (FileExists(path + "/state")) {
    return Status::Invalid(path + ": no folder of snapshots; name " + path + "/state");
  }
  MF_ASSIGN_OR_RETURN(auto model, SnapshotModel::Open(path, pool));
  return Of(std::move(model));
}

std::unique_ptr<TrainedModel> TrainedModel::Of(std::unique_ptr<SnapshotModel> model) {
  return std::make_unique<OfSnapshots>(std::move(model));
}

}  // namespace mf
