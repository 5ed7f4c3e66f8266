// A model from an exported safetensors file: its configuration and dense tensors in memory, its
// tables left in the mapped file, so that a model larger than memory can be used. Files that other
// programs have written anew are read, too: without metadata, in half precision, unaligned.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/run/tensor_spec.h"
#include "worker/config/config.h"
#include "worker/export/safetensors.h"
#include "worker/model/model.h"

namespace mf {

class LoadedModel {
 public:
  /// `config_file` is a TOML file whose [model] describes a model that lost its metadata in another
  /// program; empty: the file describes itself. kInvalid, naming the file and what is wrong with
  /// it, unless it is a whole export; also if both describe it, but not alike.
  static Result<std::unique_ptr<LoadedModel>> Open(const std::string& path,
                                                   const std::string& config_file = "");

  /// [model] as exported; all other sections have their defaults.
  const Config& config() const { return config_; }
  const std::vector<TensorSpec>& tensors() const { return tensors_; }
  const std::shared_ptr<const DenseTensors>& dense() const { return dense_; }
  /// The rows [tables * rows][columns] of a memory tensor, in the file's mapping; in memory where
  /// they are not f32 or lie unaligned.
  const float* table(const TensorSpec& tensor) const { return tables_[tensor.id]; }

 private:
  LoadedModel() = default;
  Status ReadConfig(const std::string& config_file);

  std::shared_ptr<const SafetensorsReader> file_;
  Config config_;
  std::vector<TensorSpec> tensors_;
  std::shared_ptr<const DenseTensors> dense_;
  std::vector<const float*> tables_;        // by tensor id; nullptr for dense tensors
  std::vector<std::vector<float>> copies_;  // of tables that cannot be used in place
};

}  // namespace mf
