#include "pserver/shard/storage.h"

#include <filesystem>

#include "pserver/snapshot/snapshot_folders.h"
#include "pserver/snapshot/snapshot_rocksdb.h"

namespace mf {
namespace {

/// The number of servers of which `dir` holds snapshots, other than `shards`; 0: none.
uint32_t OtherShards(const std::string& dir, uint32_t shards) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(dir, error)) {
    uint32_t shard = 0, other = 0;
    if (!ParseShardName(entry.path().filename().string(), &shard, &other)) continue;
    if (other == shards) continue;
    const auto reader = OpenRocksSnapshotReader(entry.path().string());
    if (reader.ok() && !(*reader.value()).Published().empty()) return other;
  }
  return 0;
}

}  // namespace

Result<std::unique_ptr<Storage>> Storage::Open(const std::string& dir, uint32_t shard,
                                               uint32_t shards) {
  std::unique_ptr<Storage> storage(new Storage());
  // Before anything is made there.
  if (!std::filesystem::exists(DataDirectory::PathOf(dir, shard, shards))) {
    if (const uint32_t other = OtherShards(dir, shards); other != 0) {
      return Status::Invalid(dir + " holds snapshots of " + std::to_string(other) +
                             " servers, this is one of " + std::to_string(shards) +
                             "; run: pserver reshard --from " + dir + " --to NEW_FOLDER --shards " +
                             std::to_string(shards));
    }
  }
  MF_ASSIGN_OR_RETURN(storage->folder_, DataDirectory::Open(dir, shard, shards));
  MF_ASSIGN_OR_RETURN(storage->store_, OpenRocksSnapshots(storage->folder_->path()));
  storage->writer_ = MakeThreadedSnapshotWriter(*storage->store_);
  return storage;
}

void Storage::GiveTo(Shard::Options* options) const {
  options->boot_count = folder_->boot_count();
  options->folder = folder_.get();
  options->store = store_.get();
  options->writer = writer_.get();
}

}  // namespace mf
