// Snapshots of all servers of a run, written by no server: numbers that say where they belong.
#pragma once

#include <cstdint>
#include <string>

#include "common/run/run_description.h"
#include "pserver/snapshot/snapshot_store.h"
#include "tests/support/snapshots/snapshot_model.h"

namespace mf {

/// A small language model's run. "mixed": every tensor another optimizer than the one before.
RunDescription SmallRun(const std::string& optimizer);

/// Of server `shard` in the folder `dir`.
std::string FolderOf(const std::string& dir, uint32_t shard, uint32_t shards);

/// The number that EntriesOf() has at a place.
float NumberAt(const TensorSpec& tensor, uint64_t row, size_t plane, size_t column, uint64_t step);
/// What server `shard` of `shards` keeps after `step`: some rows of every tensor, and all rates and
/// records.
Entries EntriesOf(const RunDescription& run, uint32_t shard, uint32_t shards, uint64_t step);
SnapshotInfo InfoOf(const RunDescription& run, uint32_t shard, uint32_t shards, uint64_t step);

/// The entries as a snapshot of the store in `folder`, beside those that it has.
Status PublishInto(const std::string& folder, const SnapshotInfo& info, const Entries& entries);
/// The same for all servers. A failure fails the test.
void WriteShards(const std::string& dir, const RunDescription& run, uint32_t shards, uint64_t step);

}  // namespace mf
