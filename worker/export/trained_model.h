// A trained model to be used, whatever it comes from: an exported file, the newest snapshots of a
// run, or the servers of one.
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

/// Where a model is: at `path` or at `servers`.
struct ModelPlace {
  std::string path = {};    // a safetensors file, a folder of such (LoadedModel), or a folder of
                            // snapshots (SnapshotModel)
  std::string config = {};  // TOML file for a safetensors file that does not describe itself
  std::vector<std::string> servers = {};  // of a running cluster (ServerModel), in shard order
  std::string keys = {};                  // of those, as of Connect()

  /// For people; empty if nothing is named.
  const std::string& name() const { return servers.empty() ? path : servers[0]; }
};

class TrainedModel {
 public:
  virtual ~TrainedModel() = default;

  /// kInvalid unless `place` is one, or for a `config` beside what describes itself. `pool`
  /// outlives the model. Other errors as of the three classes.
  static Result<std::unique_ptr<TrainedModel>> Open(const ModelPlace& place, ThreadPool& pool);

  /// The one of these snapshots.
  static std::unique_ptr<TrainedModel> Of(std::unique_ptr<SnapshotModel> model);

  virtual const Config& config() const = 0;
  virtual const std::vector<TensorSpec>& tensors() const = 0;
  virtual const std::shared_ptr<const DenseTensors>& dense() const = 0;
  /// Its memory layers, forward only.
  virtual Exchange& exchange() = 0;
  /// Its tensors; an exported file does not know which rows were updated.
  virtual TensorReader& reader() = 0;
  /// Of the run that it comes from; nothing if the file does not say.
  virtual std::optional<uint64_t> step() const = 0;
  /// What a failed use leads to if the model is at servers whose run went on meanwhile, which is
  /// what `error` says: true, and this is its newest state; dense() is another object then. False
  /// for all that does not move.
  virtual Result<bool> TakeNewest(const Status& /*error*/) { return false; }
};

}  // namespace mf
