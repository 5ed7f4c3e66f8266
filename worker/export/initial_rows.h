// The rows of a trained model, as servers take them for the beginning of another run: weights
// alone, or with all that its optimizer knows.
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
#include "worker/initial/row_source.h"

namespace mf {

class InitialRows : public RowSource {
 public:
  /// `path` is a safetensors file, a folder that `worker export --format hf` has written, or one of
  /// snapshots, of which `step` is taken, or if that is 0 the newest that all servers have; only
  /// snapshots have an optimizer. kInvalid, naming what is wrong, for anything else. `pool`
  /// outlives it.
  static Result<std::unique_ptr<InitialRows>> Open(const std::string& path, uint64_t step,
                                                   bool with_optimizer, ThreadPool& pool);

  /// Of the model; from snapshots that of the whole run.
  virtual const Config& config() const = 0;
  virtual const std::vector<TensorSpec>& tensors() const = 0;
  /// Of snapshots: steps that were trained, those before the run included; and the run's own.
  virtual std::optional<uint64_t> steps() const = 0;
  virtual uint64_t step() const = 0;
  /// A name that no other state has.
  virtual const std::string& name() const = 0;
  virtual bool with_optimizer() const = 0;
  /// What the rows that are not among these have become: their initial values times this.
  virtual double NeverUpdatedFactor(const TensorSpec& tensor) const = 0;
};

}  // namespace mf
