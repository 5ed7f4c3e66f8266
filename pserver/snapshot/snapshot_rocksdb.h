// Snapshots as RocksDB databases: see pserver/snapshot/snapshot_store.h and docs/SNAPSHOTS.md.
#pragma once

#include <memory>
#include <string>

#include "pserver/snapshot/snapshot_store.h"

namespace mf {

struct RocksSnapshotOptions {
  /// Files of an increment are cut here, or at 1/16 of the live database if that is more: every
  /// file of an increment is a sorted run of its own, and readers open all of them at once.
  uint64_t file_bytes = uint64_t{128} << 20;
  /// Increments are merged into the base when together they are as large as it is: each byte of a
  /// snapshot is then rewritten about once, whatever the size of the increments...
  double merge_ratio = 1.0;
  /// ...or when there are so many of them: bounds the runs that a reader merges, and costs at most
  /// 1/200 of the state an increment.
  uint32_t merge_increments = 200;
};

/// `folder` is a server's own, DIR/shard-<i>-of-<S>, locked by the caller; it is made if it is
/// missing. Leftovers of a process that died are removed; the live database is empty until
/// Reset(). kInvalid, naming it, if it cannot be written.
Result<std::unique_ptr<SnapshotStore>> OpenRocksSnapshots(const std::string& folder,
                                                          const RocksSnapshotOptions& options = {});

/// Only reads: takes no lock, removes and writes nothing, and may run beside a server. A snapshot
/// that the server deletes meanwhile stays readable for a cursor that is open on it, if it has at
/// most 512 files; else it reads as an error. kInvalid if `folder` is not a folder.
Result<std::unique_ptr<SnapshotReader>> OpenRocksSnapshotReader(const std::string& folder);

}  // namespace mf
