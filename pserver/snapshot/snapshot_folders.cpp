#include "pserver/snapshot/snapshot_folders.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <tuple>

#include "common/client/snapshot_plan.h"
#include "pserver/snapshot/snapshot_files.h"

namespace mf {

bool ParseShardName(const std::string& name, uint32_t* shard, uint32_t* shards) {
  char rest = 0;
  return std::sscanf(name.c_str(), "shard-%u-of-%u%c", shard, shards, &rest) == 2 &&
         *shard < *shards &&
         name == "shard-" + std::to_string(*shard) + "-of-" + std::to_string(*shards);
}

Result<std::vector<ShardFolder>> FindShardFolders(const std::string& dir) {
  if (!FileExists(dir + "/.")) {
    return Status::Invalid(dir +
                           ": not a folder; name the --data folder of the servers or one of " +
                           "its shard-<i>-of-<S>");
  }
  ShardFolder folder{.path = dir};
  std::error_code error;
  const std::filesystem::path whole = std::filesystem::canonical(dir, error);
  if (ParseShardName(whole.filename().string(), &folder.shard, &folder.shards))
    return std::vector<ShardFolder>{folder};
  std::vector<ShardFolder> folders;
  for (const std::string& name : FileNames(dir)) {
    folder.path = dir + "/" + name;
    if (ParseShardName(name, &folder.shard, &folder.shards)) folders.push_back(folder);
  }
  if (folders.empty()) {
    return Status::Invalid(dir + ": no shard-<i>-of-<S> folder in it; name the --data folder of " +
                           "the servers");
  }
  std::sort(folders.begin(), folders.end(), [](const ShardFolder& a, const ShardFolder& b) {
    return std::tie(a.shards, a.shard) < std::tie(b.shards, b.shard);
  });
  return folders;
}

std::vector<uint64_t> CommonSteps(const std::vector<std::unique_ptr<SnapshotReader>>& readers) {
  std::vector<SnapshotState> servers;
  for (const auto& reader : readers) servers.push_back({reader->Published(), 0});
  return CommonSteps(servers);
}

}  // namespace mf
