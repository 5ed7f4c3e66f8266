// The shard folders of a --data directory, seen from outside: for programs that look at the
// snapshots of all servers.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "pserver/snapshot/snapshot_store.h"

namespace mf {

/// Beside unfinished shard folders while `pserver reshard` writes; no server starts next to it.
inline constexpr const char* kReshardFolder = "tmp-reshard";

struct ShardFolder {
  uint32_t shard = 0;
  uint32_t shards = 0;
  std::string path;
};

/// Shard and shards of "shard-<i>-of-<S>" with i < S; false for any other name.
bool ParseShardName(const std::string& name, uint32_t* shard, uint32_t* shards);

/// `dir` is one shard folder, or has them in it: by S, then i. kInvalid if there is none.
Result<std::vector<ShardFolder>> FindShardFolders(const std::string& dir);

/// Steps that all of them have, rising.
std::vector<uint64_t> CommonSteps(const std::vector<std::unique_ptr<SnapshotReader>>& readers);

}  // namespace mf
