#include "pserver/snapshot/snapshot_files.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

namespace mf {

namespace fs = std::filesystem;

Status LinkDatabase(const std::string& from, const std::string& to, const std::string& leave) {
  MF_RETURN_IF_ERROR(MakeScratchFolder(to));
  for (const std::string& name : FileNames(from)) {
    if (name == leave) continue;
    const std::string source = from + "/" + name, target = to + "/" + name;
    if (name.ends_with(".sst")) {
      MF_RETURN_IF_ERROR(LinkOrCopy(source, target));
      continue;
    }
    std::error_code error;
    fs::copy_file(source, target, error);
    if (error) return FileError(source, "copy to " + target, error.message());
  }
  return Status::Ok();
}

uint64_t StepOfName(const std::string& name) {
  constexpr std::string_view kPrefix = "step-";
  if (!name.starts_with(kPrefix) || name.size() == kPrefix.size() || name[kPrefix.size()] == '0')
    return 0;
  uint64_t step = 0;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  return error == std::errc() && stop == end ? step : 0;
}

std::vector<uint64_t> StepsIn(const std::string& folder) {
  std::vector<uint64_t> steps;
  for (const std::string& name : FileNames(folder)) {
    if (const uint64_t step = StepOfName(name); step > 0) steps.push_back(step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

}  // namespace mf
