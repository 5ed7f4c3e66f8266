// What a server keeps on disk: its folder, the snapshots in it, and the thread that writes them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "pserver/shard/data_directory.h"
#include "pserver/shard/shard.h"
#include "pserver/snapshot/snapshot_store.h"
#include "pserver/snapshot/snapshot_writer.h"

namespace mf {

class Storage {
 public:
  /// DIR/shard-<i>-of-<S>, locked. kInvalid, with the command to run, if DIR holds snapshots of
  /// another number of servers and none of this one.
  static Result<std::unique_ptr<Storage>> Open(const std::string& dir, uint32_t shard,
                                               uint32_t shards);

  const DataDirectory& folder() const { return *folder_; }
  /// Sets what `options` says of storage; this object has to outlive the shard.
  void GiveTo(Shard::Options* options) const;

 private:
  Storage() = default;
  std::unique_ptr<DataDirectory> folder_;
  std::unique_ptr<SnapshotStore> store_;
  std::unique_ptr<SnapshotWriter> writer_;
};

}  // namespace mf
