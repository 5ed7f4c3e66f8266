// The folders of runs and shards in a --data directory, seen from outside: for programs that look
// at the snapshots of all servers.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/net/messages.h"
#include "common/run/run_description.h"
#include "pserver/snapshot/snapshot_store.h"

namespace mf {

/// Beside unfinished shard folders while `pserver reshard` writes; no server starts next to it.
inline constexpr const char* kReshardFolder = "tmp-reshard";

/// In a run's folder: RunDescription::Json().
inline constexpr const char* kDescriptionFile = "description.json";

struct RunFolder {
  std::string name;  // "run-" and the first 16 digits of the run's id
  std::string path;
};
std::string RunFolderName(const std::string& run_id);
/// Those with a name of RunFolderName(), sorted; none if `dir` is not a folder.
std::vector<RunFolder> FindRuns(const std::string& dir);
/// The one run of `dir`, which is a --data folder with one run that has snapshots, or a run's
/// folder by whatever name. kInvalid if there is none, or more than one run, which are then named.
Result<RunFolder> TheRunIn(const std::string& dir);
/// How `about` of a run begins whose description cannot be read; the reason follows.
inline const std::string kUnreadable = "unreadable: ";
/// What its description says; `newest` and `active` stay 0. RunFolderName() of its id is the
/// folder's name: where the description is another run's, or none, the id is the rest of the name.
StoredRun DescribeStored(const RunFolder& folder);
/// The text in a run's folder, and what it says.
Result<std::string> ReadDescription(const std::string& run_folder);
Result<RunDescription> StoredDescription(const std::string& run_folder);
/// The run's folder goes with the last server's, its description with it.
Status RemoveIfEmpty(const std::string& run_folder);

struct ShardFolder {
  uint32_t shard = 0;
  uint32_t shards = 0;
  std::string path;
};

/// Shard and shards of "shard-<i>-of-<S>" with i < S; false for any other name.
bool ParseShardName(const std::string& name, uint32_t* shard, uint32_t* shards);

/// `dir` is one shard folder, a run's folder or a --data folder with one run that has snapshots:
/// its shards by S, then i. kInvalid if there is none, or more than one run, which are then named.
Result<std::vector<ShardFolder>> FindShardFolders(const std::string& dir);

/// Steps that all of them have, rising.
std::vector<uint64_t> CommonSteps(const std::vector<std::unique_ptr<SnapshotReader>>& readers);

}  // namespace mf
