#include "worker/export/initial_rows.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "common/base/digest.h"
#include "common/base/files.h"
#include "common/base/input_file.h"
#include "pserver/offline/merged_snapshot.h"
#include "pserver/snapshot/snapshot_format.h"
#include "pserver/table/optimizer.h"
#include "worker/config/tensors.h"
#include "worker/export/safetensors_files.h"
#include "worker/export/snapshot_model.h"
#include "worker/export/trained_model.h"

namespace mf {
namespace {

std::string NameOfSnapshot(const std::string& run_id, uint64_t step, bool with_optimizer) {
  return (with_optimizer ? "step " : "weights of step ") + std::to_string(step) + " of run " +
         run_id;
}

/// The newest snapshots of a run, whole.
class WholeState final : public InitialRows {
 public:
  static Result<std::unique_ptr<InitialRows>> Open(const std::string& path, uint64_t step) {
    auto state = std::make_unique<WholeState>();
    state->options_ = {.from = path, .flag = "--init", .step = step};
    MF_ASSIGN_OR_RETURN(state->snapshot_, MergedSnapshot::Open(state->options_));
    const MergedSnapshot& snapshot = *state->snapshot_;
    state->options_.step = snapshot.step();
    MF_ASSIGN_OR_RETURN(state->config_, ConfigOf(snapshot.run()));
    state->name_ = NameOfSnapshot(snapshot.info().run_id, snapshot.step(), true);
    return std::unique_ptr<InitialRows>(std::move(state));
  }

  const Config& config() const override { return config_; }
  const std::vector<TensorSpec>& tensors() const override { return snapshot_->run().tensors; }
  std::optional<uint64_t> steps() const override {
    return snapshot_->step() + static_cast<uint64_t>(snapshot_->run().rules.steps_before);
  }
  uint64_t step() const override { return snapshot_->step(); }
  const std::string& name() const override { return name_; }
  bool with_optimizer() const override { return true; }
  double NeverUpdatedFactor(const TensorSpec&) const override { return 1; }  // by the rates
  uint64_t total_rows() const override { return snapshot_->rows(); }

  Status Begin(const RunDescription&) override {
    MF_ASSIGN_OR_RETURN(snapshot_, MergedSnapshot::Open(options_));
    rates_.clear();
    MF_ASSIGN_OR_RETURN(more_, snapshot_->Next());
    return Status::Ok();
  }
  Result<bool> Next(RowStates* rows) override {
    *rows = {.tensor = snapshot_->key().space};
    while (more_ && snapshot_->is_row() && snapshot_->key().space == rows->tensor &&
           rows->states.size() < kStatesAtOnce) {
      rows->rows.push_back(snapshot_->key().id);
      rows->states.insert(rows->states.end(), snapshot_->data(),
                          snapshot_->data() + snapshot_->bytes());
      MF_ASSIGN_OR_RETURN(more_, snapshot_->Next());
    }
    if (!rows->rows.empty()) return true;
    while (more_) {
      if (snapshot_->key().space == kRateSpace) {
        MF_ASSIGN_OR_RETURN(const double rate, DecodeRate(snapshot_->data(), snapshot_->bytes()));
        rates_.push_back(rate);
      }
      MF_ASSIGN_OR_RETURN(more_, snapshot_->Next());
    }
    return false;
  }
  const std::vector<double>& rates() const override { return rates_; }

 private:
  MergedSnapshot::Options options_;
  std::unique_ptr<MergedSnapshot> snapshot_;
  Config config_;
  std::string name_;
  bool more_ = false;
  std::vector<double> rates_;
};

/// What readers see of a model; an optimizer begins anew with it.
class Weights final : public InitialRows {
 public:
  static Result<std::unique_ptr<InitialRows>> OfFile(const std::string& path, ThreadPool& pool) {
    auto weights = std::make_unique<Weights>();
    MF_ASSIGN_OR_RETURN(const std::vector<std::string> files, SafetensorsFiles(path));
    const std::string& place = files.size() == 1 ? files[0] : path;
    MF_ASSIGN_OR_RETURN(weights->model_, TrainedModel::Open({.path = place}, pool));
    Sha256 of_all;
    std::string digest;
    for (const std::string& file : files) {
      digest = Sha256HexOfFile(file);
      if (digest.empty()) return Status::Invalid(file + ": cannot be read to its end");
      of_all.Update(digest);
    }
    weights->name_ = "weights of digest " + (files.size() == 1 ? digest : of_all.Hex());
    return std::unique_ptr<InitialRows>(std::move(weights));
  }
  static Result<std::unique_ptr<InitialRows>> OfSnapshots(const std::string& path, uint64_t step,
                                                          ThreadPool& pool) {
    auto weights = std::make_unique<Weights>();
    MF_ASSIGN_OR_RETURN(auto model, SnapshotModel::Open(path, pool, step));
    weights->run_ = &model->run();
    weights->snapshots_ = model.get();
    weights->name_ = NameOfSnapshot(model->run().RunId(), model->step(), false);
    weights->model_ = TrainedModel::Of(std::move(model));
    return std::unique_ptr<InitialRows>(std::move(weights));
  }

  const Config& config() const override { return model_->config(); }
  const std::vector<TensorSpec>& tensors() const override { return model_->tensors(); }
  std::optional<uint64_t> steps() const override {
    if (run_ == nullptr) return std::nullopt;
    return snapshots_->step() + static_cast<uint64_t>(run_->rules.steps_before);
  }
  uint64_t step() const override { return snapshots_ == nullptr ? 0 : snapshots_->step(); }
  const std::string& name() const override { return name_; }
  bool with_optimizer() const override { return false; }
  double NeverUpdatedFactor(const TensorSpec& tensor) const override {
    return snapshots_ == nullptr ? 1 : snapshots_->NeverUpdatedFactor(tensor);
  }
  uint64_t total_rows() const override {
    uint64_t rows = 0;
    for (const TensorSpec& tensor : tensors()) {
      rows += snapshots_ == nullptr ? tensor.total_rows() : snapshots_->UpdatedCount(tensor);
    }
    return rows;
  }

  Status Begin(const RunDescription& of) override {
    of_ = &of;
    tensor_ = row_ = 0;
    return Status::Ok();
  }
  Result<bool> Next(RowStates* rows) override {
    while (tensor_ < of_->tensors.size()) {
      MF_RETURN_IF_ERROR(Read(of_->tensors[tensor_], rows));
      if (!rows->rows.empty()) return true;
      ++tensor_;
      row_ = 0;
    }
    return false;
  }
  const std::vector<double>& rates() const override { return no_rates_; }

 private:
  /// Rows of the tensor from row_ on; none at its end.
  Status Read(const TensorSpec& tensor, RowStates* out) {
    const uint64_t most = RowsAtOnce(tensor, of_->rules.column_blocks);
    *out = {.tensor = tensor.id};
    if (snapshots_ != nullptr) {
      MF_ASSIGN_OR_RETURN(out->rows, model_->reader().UpdatedRows(tensor, row_, most));
    } else {
      out->rows.resize(std::min(most, tensor.total_rows() - row_));
      std::iota(out->rows.begin(), out->rows.end(), row_);
    }
    if (out->rows.empty()) return Status::Ok();
    row_ = out->rows.back() + 1;
    const auto columns = static_cast<size_t>(tensor.columns);
    values_.resize(out->rows.size() * columns);
    MF_RETURN_IF_ERROR(model_->reader().ReadRows(tensor, out->rows, values_.data()));
    out->states = StatesOf(tensor, of_->rules.column_blocks, values_.data(), out->rows.size());
    return Status::Ok();
  }

  std::unique_ptr<TrainedModel> model_;
  SnapshotModel* snapshots_ = nullptr;  // it, if it is of snapshots
  const RunDescription* run_ = nullptr;
  std::string name_;
  const RunDescription* of_ = nullptr;
  size_t tensor_ = 0;
  uint64_t row_ = 0;
  std::vector<float> values_;
  const std::vector<double> no_rates_ = {};
};

}  // namespace

Result<std::unique_ptr<InitialRows>> InitialRows::Open(const std::string& path, uint64_t step,
                                                       bool with_optimizer, ThreadPool& pool) {
  const std::string state = path + "/state";  // in an --out of embedded servers
  const std::string& snapshots = FileExists(state) ? state : path;
  const bool folder = IsFolder(path);
  if (with_optimizer && folder && (FileExists(state) || !HasSafetensors(path))) {
    return WholeState::Open(snapshots, step);
  }
  if (folder && !HasSafetensors(path)) return Weights::OfSnapshots(snapshots, step, pool);
  if (with_optimizer && FileExists(path)) {
    return Status::Invalid("--keep-optimizer: " + path +
                           " has none; name the folder of a run's snapshots by --init");
  }
  return Weights::OfFile(path, pool);
}

}  // namespace mf
