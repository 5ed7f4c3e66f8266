// The changed entries of one increment, written as sorted tables beside the live database.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "pserver/snapshot/snapshot_key.h"

namespace mf {

/// A finished table file and what RocksDB computed while it was written.
struct IncrementTable {
  std::string path;
  uint64_t bytes = 0;
  std::string checksum = {};  // RocksDB's, raw
  std::string checksum_name = {};
};

class Increment {
 public:
  struct Entry {
    SnapshotKey key;
    std::string value;
  };

  /// Files go to `folder`, which is made by Begin() and removed by Drop().
  explicit Increment(std::string folder);
  ~Increment();

  Status Begin(uint64_t file_bytes);
  /// Strictly rising.
  Status Put(uint32_t space, uint64_t id, const void* data, size_t bytes);
  /// Before Finish(): older entries of step spaces, rising, that have to be in it too; those that
  /// were put win.
  void Keep(std::vector<Entry> older);
  /// All tables are complete and durable.
  Status Finish();
  void Drop();

  const std::vector<IncrementTable>& tables() const { return tables_; }
  uint64_t entries() const { return entries_; }
  /// Entries below kFirstStepSpace.
  uint64_t rows() const { return rows_; }
  uint64_t bytes() const;

 private:
  class Writer;

  Status Write(const SnapshotKey& key, const void* data, size_t bytes);
  Status FinishTable();

  const std::string folder_;
  uint64_t file_bytes_ = 0;
  uint64_t entries_ = 0;
  uint64_t rows_ = 0;
  std::optional<SnapshotKey> last_;
  std::unique_ptr<Writer> writer_;
  std::vector<IncrementTable> tables_;
  std::vector<Entry> steps_;  // of step spaces: few bytes, written last
};

}  // namespace mf
