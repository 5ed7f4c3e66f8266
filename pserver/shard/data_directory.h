// A server's place on disk for one run: RUN/shard-<i>-of-<S>/, held by one process at a time, with
// the count of its openings (DESIGN 2.6: epochs are issued as boot count << 32 | counter, so it is
// durable before the run is served).
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "common/base/status.h"

namespace mf {

class DataDirectory {
 public:
  /// Makes the folder if it is missing, locks it and counts the opening. kInvalid, naming the
  /// folder, if it cannot be written; kFailed if another server holds it.
  static Result<std::unique_ptr<DataDirectory>> Open(const std::string& dir, uint32_t shard,
                                                     uint32_t shards);
  static std::string PathOf(const std::string& dir, uint32_t shard, uint32_t shards);
  /// kFailed if a server holds the shard folder `path`.
  static Status CheckFree(const std::string& path);
  ~DataDirectory();
  DataDirectory(const DataDirectory&) = delete;
  DataDirectory& operator=(const DataDirectory&) = delete;

  const std::string& path() const { return path_; }
  struct Space {
    uint64_t free = 0, size = 0;  // bytes
  };
  /// Of the disk that holds the folder, for those who are not root; zeros if it does not say.
  Space DiskSpace() const;
  /// 1 at the first opening.
  uint64_t boot_count() const { return boot_count_; }
  /// The newest step of the run that all servers were said to have; 0: none.
  uint64_t common_step() const { return common_step_; }
  /// Durable when it returns.
  Status KeepCommonStep(uint64_t step);

 private:
  DataDirectory() = default;
  Status CountBoot();

  std::string path_;
  int lock_ = -1;
  uint64_t boot_count_ = 0;
  uint64_t common_step_ = 0;
};

}  // namespace mf
