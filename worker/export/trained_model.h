// A trained model to be used, whatever it comes from: an exported file, or the newest snapshots of
// a run.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/base/thread_pool.h"
#include "common/run/tensor_spec.h"
#include "worker/config/config.h"
#include "worker/exchange/exchange.h"
#include "worker/export/tensor_reader.h"
#include "worker/model/model.h"

namespace mf {

class SnapshotModel;

class TrainedModel {
 public:
  virtual ~TrainedModel() = default;

  /// `path` is a safetensors file (LoadedModel), or a folder of snapshots (SnapshotModel), which
  /// describe themselves: kInvalid if a `config_file` is given for those. `pool` outlives the
  /// model. Other errors as of those two.
  static Result<std::unique_ptr<TrainedModel>> Open(const std::string& path,
                                                    const std::string& config_file,
                                                    ThreadPool& pool);

  /// The one of these snapshots.
  static std::unique_ptr<TrainedModel> Of(std::unique_ptr<SnapshotModel> model);

  virtual const Config& config() const = 0;
  virtual const std::vector<TensorSpec>& tensors() const = 0;
  virtual const std::shared_ptr<const DenseTensors>& dense() const = 0;
  /// Its memory layers, forward only.
  virtual Exchange& exchange() = 0;
  /// Its tensors; only snapshots know which rows were updated.
  virtual TensorReader& reader() = 0;
  /// Of the run that it comes from; nothing if the file does not say.
  virtual std::optional<uint64_t> step() const = 0;
};

}  // namespace mf
