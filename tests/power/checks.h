// What has to be true of what the power left, for each kind of recording.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "tests/power/disk.h"

namespace mf {

class PowerCheck {
 public:
  virtual ~PowerCheck() = default;
  /// A process, or who watches it, has told this much: from now on it may be counted on. Called in
  /// order, when the disk has come there.
  virtual Status Hear(const PowerDisk& disk, const std::string& words) = 0;
  /// All was heard once; it comes again, with cuts in it.
  virtual void Rewind() = 0;
  /// `folder` is what is left of the recorded root. Only reads.
  virtual Status Look(const std::string& folder) = 0;
  /// Starts on it, as the next process would, and saves more.
  virtual Status GoOn(const std::string& folder) = 0;
};

/// One store with the rows of tests/support/versioned_rows.h in shard-0-of-1; says "saved N\n".
std::unique_ptr<PowerCheck> MakeStoreCheck(uint64_t seed);

/// --data folders of servers of one run, one below the other: MACHINE/data/run-*/shard-*-of-*. Who
/// watches says "saved SHARD N\n".
std::unique_ptr<PowerCheck> MakeServersCheck(uint32_t shards);

/// Files that somebody was told to be there: "file PATH\n", below the root. From then on the path
/// holds what it held then, or what it holds when it is told of the next time.
std::unique_ptr<PowerCheck> MakeFilesCheck();

}  // namespace mf
