// Which safetensors files a model is in: one, or several with an index, as Hugging Face's programs
// and `worker export --format hf` write large ones.
#pragma once

#include <string>
#include <vector>

#include "common/base/status.h"

namespace mf {

/// Whether a folder holds a model in safetensors files.
bool HasSafetensors(const std::string& folder);

/// The files of the model at `path`: itself, or if it is a folder its model.safetensors or those
/// that its model.safetensors.index.json names, by name. kInvalid if there are none, or for an
/// index that is none.
Result<std::vector<std::string>> SafetensorsFiles(const std::string& path);

}  // namespace mf
