// Model files: as any program's safetensors, and as a model of this one.
#include <filesystem>

#include "tests/fuzz/support/scratch_folder.h"
#include "tests/fuzz/support/target.h"
#include "worker/config/tensors.h"
#include "worker/export/loaded_model.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mf;
  const std::string path = fuzz::ScratchFile("model.safetensors", fuzz::TextOf(data, size));
  auto file = SafetensorsReader::Open(path);
  if (!file.ok()) {
    MF_CHECK(file.status().code() == Code::kInvalid);
    MF_CHECK(!LoadedModel::Open(path).ok());
    return 0;
  }
  uint64_t bytes = 0;
  for (const SafetensorsReader::Tensor& tensor : (*file)->tensors()) {
    MF_CHECK((*file)->Find(tensor.entry.name) == &tensor);
    bytes += tensor.bytes;
    if (tensor.entry.dtype == DType::kU64) continue;
    std::vector<float> values(tensor.numbers());
    tensor.CopyF32(values.data());
    if (tensor.f32() != nullptr && !values.empty()) {
      MF_CHECK(std::memcmp(tensor.f32(), values.data(), tensor.bytes) == 0);
    }
  }
  MF_CHECK(bytes <= size);
  auto model = LoadedModel::Open(path);
  if (model.ok()) MF_CHECK((*model)->tensors().size() == (*file)->tensors().size());
  return 0;
}
