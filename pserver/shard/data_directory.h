// A server's place on disk for one run: RUN/shard-<i>-of-<S>/, held by one process at a time, with
// the count of its openings (DESIGN 2.6: epochs are issued as boot count << 32 | counter, so it is
// durable before the run is served).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "common/base/file_lock.h"
#include "common/base/status.h"

namespace mf {

/// The lock of a server on its place `dir`, which is `file`: kFailed if another one holds it,
/// kInvalid if it cannot be written or, with kRefuse, where there are no locks.
Result<FileLock> LockForServer(const std::string& file, const std::string& dir, NoLocks without);

class DataDirectory {
 public:
  /// Makes the folder if it is missing, locks it and counts the opening. kInvalid, naming the
  /// folder, if it cannot be written, or if its file system cannot do what is needed; kFailed if
  /// another server holds it.
  static Result<std::unique_ptr<DataDirectory>> Open(const std::string& dir, uint32_t shard,
                                                     uint32_t shards,
                                                     NoLocks without = NoLocks::kRefuse);
  static std::string PathOf(const std::string& dir, uint32_t shard, uint32_t shards);
  /// Held by whoever reads the shard folder `path`: no server starts on it meanwhile. kFailed if a
  /// server holds it; where that cannot be known, a warning. Nothing is held of a copy, which was
  /// never served from.
  static Result<FileLock> HoldFree(const std::string& path);
  /// kFailed if a server holds the shard folder `path`, kInvalid where that cannot be known.
  static Status CheckFree(const std::string& path);
  DataDirectory(const DataDirectory&) = delete;
  DataDirectory& operator=(const DataDirectory&) = delete;

  const std::string& path() const { return path_; }
  struct Space {
    uint64_t free = 0, size = 0;  // bytes
  };
  /// Of the disk that holds the folder, for those who are not root; zeros if it does not say.
  Space DiskSpace() const;
  /// Looks whether the folder is still in its place, and remembers it for moved(): it was moved,
  /// removed, unmounted, or another one stands there.
  void LookForIt();
  bool moved() const { return moved_.load(); }
  /// 1 at the first opening.
  uint64_t boot_count() const { return boot_count_; }
  /// The newest step of the run that all servers were said to have; 0: none.
  uint64_t common_step() const { return common_step_.load(); }
  /// Durable when it returns. One thread at a time.
  Status KeepCommonStep(uint64_t step);

 private:
  DataDirectory() = default;
  Status CountBoot();

  std::string path_;
  FileLock lock_;
  uint64_t boot_count_ = 0;
  std::atomic<uint64_t> common_step_ = 0;
  std::atomic<bool> moved_ = false;
};

}  // namespace mf
