#include "worker/export/safetensors_files.h"

#include <nlohmann/json.hpp>
#include <set>

#include "common/base/files.h"
#include "common/base/input_file.h"

namespace mf {
namespace {

constexpr const char* kFile = "/model.safetensors";
constexpr const char* kIndex = "/model.safetensors.index.json";
constexpr size_t kToldName = 200;
constexpr size_t kIndexMax = 100'000'000;  // as a header's

}  // namespace

bool HasSafetensors(const std::string& folder) {
  return FileExists(folder + kFile) || FileExists(folder + kIndex);
}

Result<std::vector<std::string>> SafetensorsFiles(const std::string& path) {
  if (!IsFolder(path)) {
    if (!path.ends_with(kIndex + 1)) return std::vector<std::string>{path};
    return Status::Invalid(path + ": an index of a model's files; name its folder");
  }
  if (FileExists(path + kFile)) return std::vector<std::string>{path + kFile};
  if (!FileExists(path + kIndex)) {
    return Status::Invalid(path + ": a folder, not a safetensors file; `worker export` writes one");
  }
  const std::string index_path = path + kIndex;
  MF_ASSIGN_OR_RETURN(const std::string text, ReadInput(index_path, "the index", kIndexMax));
  const auto index = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto refuse = [&](const std::string& why) {
    return Status::Invalid(index_path + ": no index of a model's files: " + why);
  };
  if (!index.is_object()) return refuse("not a JSON object");
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object() || map->empty()) {
    return refuse("it has no weight_map");
  }
  std::set<std::string> names;
  for (const auto& name : *map) {
    if (!name.is_string()) return refuse("its weight_map does not name files");
    const auto& file = name.get_ref<const std::string&>();
    if (file.empty() || file.find_first_of(std::string_view("/\0", 2)) != std::string::npos) {
      return refuse("it names a file that is not beside it: " + file.substr(0, kToldName));
    }
    names.insert(file);
  }
  std::vector<std::string> files;
  for (const std::string& name : names) files.push_back(path + "/" + name);
  return files;
}

}  // namespace mf
