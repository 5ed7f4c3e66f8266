// What a server keeps on disk: a folder for each run, in it its own folder with snapshots, and a
// thread that writes them.
//
// clang-format off
//   DIR/run-<id>/description.json        what run it is (RunDescription::Json()), equal from every server
//   DIR/run-<id>/shard-<i>-of-<S>/       DataDirectory and snapshots (docs/SNAPSHOTS.md)
//   DIR/shard-<i>-of-<S>.lock            held by the server
// clang-format on
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/net/messages.h"
#include "common/run/run_description.h"
#include "pserver/shard/data_directory.h"
#include "pserver/shard/shard.h"
#include "pserver/snapshot/disk_thread.h"
#include "pserver/snapshot/snapshot_store.h"
#include "pserver/snapshot/snapshot_writer.h"

namespace mf {

/// A server's state of one run.
class RunStorage {
 public:
  /// RUN/shard-<i>-of-<S>, locked. kInvalid, with the command to run, if RUN holds snapshots of
  /// another number of servers and none of this one.
  static Result<std::unique_ptr<RunStorage>> Open(const std::string& run, uint32_t shard,
                                                  uint32_t shards, NoLocks without);
  /// For a run whose first state is brought (RunDescription::initial): the place for it.
  Status OpenInitial();
  /// Writes the run's description beside the servers' folders, unless it stands there.
  Status Describe(const RunDescription& description) const;

  /// Sets what `options` says of storage; this object has to outlive the shard.
  void SetOptions(Shard::Options* options) const;
  const DiskThread& disk() const { return *disk_; }
  /// DataDirectory::moved.
  bool moved() const { return folder_->moved(); }

 private:
  RunStorage() = default;
  std::unique_ptr<DataDirectory> folder_;
  std::unique_ptr<SnapshotStore> store_;
  std::unique_ptr<SnapshotStore> initial_;
  std::unique_ptr<SnapshotWriter> writer_;
  std::unique_ptr<DiskThread> disk_;  // ends first: its jobs use the others
};

class Storage {
 public:
  /// Makes `dir` if it is missing and locks this server's place in it. kInvalid, saying what to do,
  /// if it cannot be written, holds runs of another number of servers only, or snapshots of an
  /// older version, or if `without` refuses a file system without locks; kFailed if another server
  /// holds it.
  static Result<std::unique_ptr<Storage>> Open(const std::string& dir, uint32_t shard,
                                               uint32_t shards, NoLocks without = NoLocks::kRefuse);
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  const std::string& dir() const { return dir_; }
  /// The run's folder, made if it is missing; what was made goes again if it cannot be opened.
  Result<std::unique_ptr<RunStorage>> OpenRun(const RunDescription& run);
  /// kWrongRun if another run than this one has snapshots here.
  Status CheckNoOther(const RunDescription& run) const;
  /// What this server has of every run, by name; none of them is `active` here.
  std::vector<StoredRun> Runs() const;
  /// Deletes what this server has of the run; nothing there is kInvalid. The run is not open.
  Status Delete(const std::string& id);

 private:
  Storage() = default;
  /// What a deletion left that was cut off; what cannot be removed is warned of.
  void RemoveGone() const;
  /// Of this server, in the run's folder.
  std::string OwnFolder(const std::string& run_folder) const;

  std::string dir_;
  uint32_t shard_ = 0, shards_ = 1;
  NoLocks without_ = NoLocks::kRefuse;
  FileLock lock_;
};

}  // namespace mf
