// A model as a folder that the `transformers` library of Hugging Face loads, and whatever builds on
// it: config.json, tensors in safetensors files, the tokenizer's file, the model's code in plain
// PyTorch, and a page that says what it is.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/run/tensor_spec.h"
#include "worker/config/config.h"
#include "worker/export/tensor_reader.h"

namespace mf {

struct HfOptions {
  std::string folder;                  // made if missing; an earlier export in it is replaced
  uint64_t file_bytes = 0;             // a file of tensors has no more, if it has several
  std::string figures = {};            // of the run, for its page: Markdown
  std::function<bool()> stopped = {};  // asked now and then: kFailed if so
};

/// kInvalid if something else is in the folder, or another export writes there. What was there
/// before stays until the new one is whole.
Status ExportHf(TensorReader& reader, const Config& config, const std::vector<TensorSpec>& tensors,
                const HfOptions& options);

}  // namespace mf
