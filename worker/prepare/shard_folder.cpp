#include "worker/prepare/shard_folder.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "common/base/files.h"
#include "worker/data/token_shard.h"

namespace mf {
namespace {

constexpr const char* kLockName = ".prepare-lock";

/// What a folder of shards consists of, with what a process that was killed has left of it.
bool IsOfShards(const std::string& name) {
  const bool shard = name.starts_with(kShardPrefix) && name.ends_with(kShardSuffix);
  const bool half_tokenizer = std::any_of(
      kKeptTokenizers.begin(), kKeptTokenizers.end(),
      [&](const char* kept) { return name.starts_with(std::string(kept) + ".partial-"); });
  return shard || IsUnfinishedShard(name) || IsKeptTokenizer(name) || half_tokenizer;
}

void RemoveAllOf(const std::string& folder) {
  std::vector<std::string> names = FileNames(folder);
  // While one of those is there it is known that the rest is unfinished, too.
  std::stable_partition(names.begin(), names.end(),
                        [](const std::string& name) { return !IsUnfinishedShard(name); });
  for (const std::string& name : names) {
    if (IsOfShards(name)) unlink((folder + "/" + name).c_str());
  }
}

}  // namespace

Result<std::unique_ptr<ShardFolder>> ShardFolder::Open(const std::string& path) {
  if (const Status made = MakeFolder(path); !made.ok()) {
    return Status::Invalid("--out " + path + ": " + made.message());
  }
  const std::vector<std::string> names = FileNames(path);
  const bool unfinished = std::any_of(names.begin(), names.end(), IsUnfinishedShard);
  for (const std::string& name : names) {
    if (name == kLockName || (unfinished && IsOfShards(name))) continue;
    return Status::Invalid("--out " + path + ": something is in it (" + name +
                           "); name a folder that is empty or not there yet");
  }
  const std::string lock_path = path + "/" + kLockName;
  Result<FileLock> lock = FileLock::TakeFolder(lock_path);
  if (lock.status().code() == Code::kUnavailable) {
    return Status::Invalid("--out " + path + ": another worker prepare writes there");
  }
  if (!lock.ok()) {
    return Status::Invalid("--out " + path + ": cannot be written: " + lock.status().message());
  }
  if (unfinished) {
    spdlog::info("{}: an earlier worker prepare has not finished it; begins anew", path);
    RemoveAllOf(path);
  }
  return std::unique_ptr<ShardFolder>(new ShardFolder(path, std::move(lock).value()));
}

ShardFolder::~ShardFolder() {
  if (!finished_) RemoveAllOf(path_);
  lock_.ReleaseAndRemove(path_ + "/" + kLockName);
}

}  // namespace mf
