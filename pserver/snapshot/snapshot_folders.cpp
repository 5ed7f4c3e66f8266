#include "pserver/snapshot/snapshot_folders.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <tuple>

#include "common/client/snapshot_plan.h"
#include "common/run/run_description.h"
#include "pserver/snapshot/snapshot_files.h"
#include "pserver/snapshot/snapshot_rocksdb.h"

namespace mf {

bool ParseShardName(const std::string& name, uint32_t* shard, uint32_t* shards) {
  char rest = 0;
  return std::sscanf(name.c_str(), "shard-%u-of-%u%c", shard, shards, &rest) == 2 &&
         *shard < *shards &&
         name == "shard-" + std::to_string(*shard) + "-of-" + std::to_string(*shards);
}

std::string RunFolderName(const std::string& run_id) { return "run-" + run_id.substr(0, 16); }

std::vector<RunFolder> FindRuns(const std::string& dir) {
  std::vector<RunFolder> runs;
  for (const std::string& name : FileNames(dir)) {
    if (name.starts_with("run-") && FileExists(dir + "/" + name + "/.")) {
      runs.push_back({name, dir + "/" + name});
    }
  }
  return runs;
}

std::string ReadDescription(const std::string& run_folder) {
  constexpr uint64_t kBytesMax = 64 << 20;
  auto text = ReadSmallFile(run_folder + "/" + kDescriptionFile, kBytesMax);
  return text.ok() ? std::move(text).value() : "";
}

StoredRun DescribeStored(const RunFolder& folder) {
  const auto run = RunDescription::FromJson(ReadDescription(folder.path));
  if (!run.ok())
    return {.id = folder.name.substr(4), .about = "unreadable: " + run.status().message()};
  return {.id = run.value().RunId(),
          .about = run.value().about,
          .steps = static_cast<uint64_t>(run.value().rules.steps)};
}

namespace {
Status NameOne(const std::string& dir, const std::vector<RunFolder>& runs) {
  std::string names;
  for (const RunFolder& run : runs) names += (names.empty() ? "" : ", ") + run.path;
  return Status::Invalid(dir + " holds " + std::to_string(runs.size()) +
                         " runs; name one: " + names);
}
}  // namespace

Result<RunFolder> TheRunIn(const std::string& dir) {
  MF_ASSIGN_OR_RETURN(const std::vector<ShardFolder> shards, FindShardFolders(dir));
  const std::string path = std::filesystem::path(shards[0].path).parent_path().string();
  for (const ShardFolder& shard : shards) {
    MF_ASSIGN_OR_RETURN(const auto reader, OpenRocksSnapshotReader(shard.path));
    const std::vector<uint64_t> steps = reader->Published();
    if (steps.empty()) continue;
    MF_ASSIGN_OR_RETURN(const SnapshotInfo info, reader->Info(steps.back()));
    return RunFolder{RunFolderName(info.run_id), path};
  }
  return Status::Invalid(dir + ": no server has a snapshot there");
}

Status RemoveIfEmpty(const std::string& run_folder) {
  for (const std::string& name : FileNames(run_folder)) {
    if (name != kDescriptionFile) return Status::Ok();
  }
  return RemoveTree(run_folder);
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
    const std::vector<RunFolder> runs = FindRuns(dir);
    if (runs.size() == 1) return FindShardFolders(runs[0].path);
    if (runs.empty()) {
      return Status::Invalid(
          dir + ": no shard-<i>-of-<S> folder in it; name the --data folder of " + "the servers");
    }
    return NameOne(dir, runs);
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
