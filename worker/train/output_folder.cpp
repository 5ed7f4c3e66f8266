#include "worker/train/output_folder.h"

#include <filesystem>
#include <system_error>

#include "common/base/files.h"
#include "common/base/input_file.h"

namespace mf {

std::string AbsolutePath(const std::string& path) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  return error ? path : absolute.string();
}

Result<FileLock> LockOutputFolder(const std::string& out, const std::string& who) {
  auto lock = FileLock::Take(out + "/lock", FileLock::Kind::kExclusive, NoLocks::kGoOn);
  if (lock.ok()) return lock;
  const bool taken = lock.status().code() == Code::kUnavailable;
  return Status::Invalid(
      "--out " + (taken ? out + ": another " + who + " writes there" : lock.status().message()) +
      "; give each " + who + " an --out of its own");
}

std::string RunInOutputFolder(const std::string& out) {
  constexpr size_t kMost = 4096;
  Result<std::string> held = ReadInput(out + "/run", "", kMost);
  return held.ok() ? held->substr(0, held->find('\n')) : "";
}

Status AdoptOutputFolder(const std::string& out, const std::string& run_id) {
  if (RunInOutputFolder(out) == run_id) return Status::Ok();
  std::error_code error;
  std::filesystem::remove(out + "/metrics.jsonl", error);  // another run's lines
  return PublishFile(out + "/run", run_id + "\n");
}

}  // namespace mf
