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
    bool removed = false;
  };

  /// Files go to `folder`, which is made by Begin() and removed by Drop().
  explicit Increment(std::string folder);
  ~Increment();

  Status Begin(uint64_t file_bytes);
  /// Strictly rising.
  Status Put(uint32_t space, uint64_t id, const void* data, size_t bytes);
  Status Remove(uint32_t space, uint64_t id);
  /// Before Finish(): older entries from kFirstWaitingSpace on, rising, that have to be in it too;
  /// those that were put or removed win.
  void Keep(std::vector<Entry> older);
  /// All tables are complete and durable.
  Status Finish();
  void Drop();

  const std::vector<IncrementTable>& tables() const { return tables_; }
  uint64_t entries() const { return entries_; }
  /// Entries below kFirstWaitingSpace that were put.
  uint64_t rows() const { return rows_; }
  uint64_t bytes() const;

 private:
  class Writer;

  Status Take(const SnapshotKey& key);
  Status OpenTable();
  Status Write(const SnapshotKey& key, const void* data, size_t bytes);
  Status WriteRemoval(const SnapshotKey& key);
  Status FinishTable();

  const std::string folder_;
  uint64_t file_bytes_ = 0;
  uint64_t entries_ = 0;
  uint64_t rows_ = 0;
  std::optional<SnapshotKey> last_;
  std::unique_ptr<Writer> writer_;
  std::vector<IncrementTable> tables_;
  std::vector<Entry> small_;  // from kFirstWaitingSpace on: few bytes, written last
};

}  // namespace mf
