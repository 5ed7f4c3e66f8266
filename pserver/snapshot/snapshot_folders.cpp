#include "pserver/snapshot/snapshot_folders.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <tuple>

#include "common/client/snapshot_plan.h"
#include "pserver/snapshot/snapshot_files.h"
#include "pserver/snapshot/snapshot_rocksdb.h"

namespace mf {

bool ParseShardName(const std::string& name, uint32_t* shard, uint32_t* shards) {
  char rest = 0;
  return std::sscanf(name.c_str(), "shard-%u-of-%u%c", shard, shards, &rest) == 2 &&
         *shard < *shards &&
         name == "shard-" + std::to_string(*shard) + "-of-" + std::to_string(*shards);
}

namespace {

constexpr std::string_view kRunPrefix = "run-";
constexpr size_t kIdDigits = 16;     // of the run's id in its folder's name
constexpr size_t kAboutBytes = 512;  // of a run in a list of many

bool IsRunName(const std::string& name) {
  return name.size() == kRunPrefix.size() + kIdDigits && name.starts_with(kRunPrefix) &&
         name.find_first_not_of("0123456789abcdef", kRunPrefix.size()) == std::string::npos;
}

bool HasSnapshots(const RunFolder& run) {
  for (const std::string& name : FileNames(run.path)) {
    uint32_t shard = 0, shards = 0;
    if (ParseShardName(name, &shard, &shards) && !StepsIn(run.path + "/" + name).empty()) {
      return true;
    }
  }
  return false;
}

}  // namespace

std::string RunFolderName(const std::string& run_id) {
  return std::string(kRunPrefix) + run_id.substr(0, kIdDigits);
}

std::vector<RunFolder> FindRuns(const std::string& dir) {
  std::vector<RunFolder> runs;
  std::error_code error;
  for (const std::string& name : FileNames(dir)) {
    const std::string path = dir + "/" + name;
    // One that may not be entered is there, too.
    if (IsRunName(name) && std::filesystem::is_directory(path, error)) runs.push_back({name, path});
  }
  return runs;
}

Result<std::string> ReadDescription(const std::string& run_folder) {
  constexpr uint64_t kBytesMax = 64 << 20;
  return ReadSmallFile(run_folder + "/" + kDescriptionFile, kBytesMax);
}

Result<RunDescription> StoredDescription(const std::string& run_folder) {
  MF_ASSIGN_OR_RETURN(const std::string text, ReadDescription(run_folder));
  auto run = RunDescription::FromJson(text);
  if (run.ok()) return run;
  return Status(run.status().code(),
                run_folder + "/" + kDescriptionFile + ": " + run.status().message());
}

StoredRun DescribeStored(const RunFolder& folder) {
  const auto run = StoredDescription(folder.path);
  const auto unknown = [&](const std::string& why) {
    return StoredRun{.id = folder.name.substr(kRunPrefix.size()), .about = why};
  };
  if (!run.ok()) return unknown(kUnreadable + run.status().message());
  if (RunFolderName(run.value().RunId()) != folder.name) {
    return unknown("the description in this folder is another run's");
  }
  return {.id = run.value().RunId(),
          .about = run.value().about.substr(0, kAboutBytes),
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
  // Not with all that is in it: a server may be beginning the run again.
  std::error_code error;
  std::filesystem::remove(run_folder + "/" + kDescriptionFile, error);
  if (error) return FileError(run_folder, "remove its description", error.message());
  (void)rmdir(run_folder.c_str());  // unless somebody has put something into it
  return Status::Ok();
}

Result<std::vector<ShardFolder>> FindShardFolders(const std::string& dir) {
  MF_RETURN_IF_ERROR(
      CheckFolder(dir, "name the --data folder of the servers or one of its shard-<i>-of-<S>"));
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
    std::vector<RunFolder> runs = FindRuns(dir);
    // What was only begun does not hide the one that was trained.
    if (std::any_of(runs.begin(), runs.end(), HasSnapshots)) {
      std::erase_if(runs, [](const RunFolder& run) { return !HasSnapshots(run); });
    }
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
