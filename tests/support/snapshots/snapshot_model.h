// Entries of snapshots in memory, to compare with what a store holds.
#pragma once

#include <cstdint>
#include <map>
#include <random>
#include <string>

#include "pserver/snapshot/snapshot_format.h"
#include "pserver/snapshot/snapshot_key.h"
#include "pserver/snapshot/snapshot_store.h"

namespace mf {

using Entries = std::map<SnapshotKey, std::string>;

/// A folder of its own, removed at the end. In memory where the machine has room for that: for
/// tests with thousands of small files.
class TemporaryFolder {
 public:
  enum class Where { kDisk, kMemory };
  explicit TemporaryFolder(Where where = Where::kDisk);
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

SnapshotInfo TestInfo(uint64_t step);

struct RowChoice {
  uint64_t rows = 100;   // ids 0.. of each of three spaces, together
  size_t bytes = 100;    // of a value
  uint64_t version = 1;  // decides the value together with the key
  double share = 1.0;    // of the rows, chosen at random
};
Entries RowEntries(const RowChoice& choice, std::mt19937_64* random = nullptr);

Status PublishEntries(SnapshotStore& store, uint64_t step, const Entries& changed);
Result<SnapshotInfo> ReadEntries(SnapshotReader& reader, uint64_t step, Entries* entries);

/// What the folder takes on disk; a file with several names counts once.
uint64_t DiskBytes(const std::string& folder);

}  // namespace mf
