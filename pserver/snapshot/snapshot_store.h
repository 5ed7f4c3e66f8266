// Where a server's snapshots are (DESIGN 2.7): entries (space, id) -> bytes, one directory step-<n>
// for each published state, and increments that turn the last one into the next. The formats of the
// entries stand in pserver/snapshot/snapshot_format.h, what is on disk in docs/SNAPSHOTS.md.
//
// A snapshot is published by one rename after everything in it is durable: it is whole or not
// there. Nothing ever writes into a published one.
//
// Threads: Begin, Put, Remove, Publish and Abandon belong to one (background) thread. Everything
// else is called by the server's thread while no increment is in progress; only Published() and
// Delete(another step than the newest) may be called at any time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"

namespace mf {

struct SnapshotInfo {
  uint64_t step = 0;
  std::string run_id;
  std::string description;  // of the run, as RunDescription::Json() gives it
  uint32_t shard = 0;
  uint32_t shards = 1;
  uint64_t applied = 0;  // applied steps: Adam's count
};

/// Under which the state that a run begins with is stored, in a folder of its own.
inline constexpr uint64_t kInitialStep = 1;

struct SpaceCount {
  uint32_t space = 0;
  uint64_t entries = 0;
  uint64_t bytes = 0;  // of the values
};

/// What one small file of a snapshot says about the rest.
struct SnapshotSummary {
  SnapshotInfo info;
  std::vector<SpaceCount> spaces;  // rising
  uint64_t files = 0;
  uint64_t file_bytes = 0;     // shared with other snapshots through hard links
  int64_t published_unix = 0;  // seconds since 1970
};

/// Walks over the entries of a snapshot in rising (space, id) order; block checksums are verified
/// on the way, and at the end the number of entries. Errors name the file.
class SnapshotCursor {
 public:
  virtual ~SnapshotCursor() = default;
  /// False at the end and after an error; status() tells which.
  virtual bool Valid() const = 0;
  virtual void Next() = 0;
  virtual Status status() const = 0;
  // REQUIRES: Valid(). data() is valid until Next().
  virtual uint32_t space() const = 0;
  virtual uint64_t id() const = 0;
  virtual const std::byte* data() const = 0;
  virtual size_t bytes() const = 0;
};

using SnapshotVisit =
    std::function<Status(uint32_t space, uint64_t id, const std::byte* data, size_t bytes)>;

/// Reading. A damaged snapshot is Code::kDamaged with the name of the first bad file; kFailed is
/// what may pass (too many open files, no memory, a disk that does not answer).
class SnapshotReader {
 public:
  virtual ~SnapshotReader() = default;
  /// Rising.
  virtual std::vector<uint64_t> Published() const = 0;
  /// Cheap: reads one small file.
  virtual Result<SnapshotSummary> Summary(uint64_t step) const = 0;
  virtual Result<SnapshotInfo> Info(uint64_t step) const = 0;
  /// Every byte of every file against its checksum; Open() and Read() do not need it.
  virtual Status VerifyFiles(uint64_t step) const = 0;
  virtual Result<std::unique_ptr<SnapshotCursor>> Open(uint64_t step) const = 0;
  /// Every entry in rising order. An error of `visit` ends it and is returned. What was visited
  /// before an error is right, but may not be all.
  virtual Result<SnapshotInfo> Read(uint64_t step, const SnapshotVisit& visit) = 0;
};

struct PublishStats {
  uint64_t rows = 0;          // entries put
  uint64_t bytes = 0;         // written for it, without merges
  uint64_t merged_bytes = 0;  // written by background merges since the publish before
  double seconds = 0;         // from Begin() to the end of Publish()
};

class SnapshotStore : public SnapshotReader {
 public:
  /// Starts an increment on top of the live database; forgets an unfinished one.
  virtual Status Begin() = 0;
  /// Strictly rising (space, id). All entries of a space have one size. An error stays until
  /// Abandon().
  virtual Status Put(uint32_t space, uint64_t id, const void* data, size_t bytes) = 0;
  /// The same order: an entry is there no more, if it ever was.
  virtual Status Remove(uint32_t space, uint64_t id) = 0;
  /// On an error the list of published snapshots is as before and the live database may or may not
  /// have the increment: the next one has to hold everything changed since the last success.
  virtual Status Publish(const SnapshotInfo& info) = 0;
  /// Forgets the increment after an error.
  virtual void Abandon() = 0;

  /// Takes a published snapshot out of sight by one rename, then frees its space.
  virtual Status Delete(uint64_t step) = 0;
  /// The live database becomes that of step-<n>, by hard links (0: empty): at the next Begin() if
  /// the disk does not let it now.
  virtual Status Reset(uint64_t step) = 0;
  /// A damaged one: renamed to damaged-step-<n>, for a human to look at.
  virtual Status Quarantine(uint64_t step) = 0;

  /// Of the last successful Publish().
  virtual PublishStats last_publish() const = 0;
  /// Waits for the background merge, if one runs: for tests and measurements.
  virtual void WaitForMerge() = 0;
};

}  // namespace mf
