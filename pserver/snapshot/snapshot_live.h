// The live database: the newest published state plus, at times, part of an increment. It takes in
// increments, gives checkpoints by hard links, and merges increments into its base in a thread of
// its own at low priority. Nothing in it is needed after a start: it is thrown away and rebuilt
// from a published snapshot.
//
// One caller at a time; the merge runs beside all of it.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "pserver/snapshot/snapshot_digest.h"
#include "pserver/snapshot/snapshot_increment.h"

namespace rocksdb {
class DB;
class Statistics;
}  // namespace rocksdb

namespace mf {

class LiveDatabase {
 public:
  explicit LiveDatabase(std::string folder);
  ~LiveDatabase();

  const std::string& folder() const { return folder_; }
  /// Open, and nothing has failed since.
  bool usable() const { return db_ != nullptr && !merge_failed_; }
  /// Closes it; the next use needs Rebuild() or Reopen().
  void Invalidate();
  Status Remove();
  /// Becomes the database of the snapshot in `from`; empty: an empty one.
  Status Rebuild(const std::string& from);
  /// Opens what is there.
  Status Reopen();

  Status Ingest(const std::vector<IncrementTable>& tables);
  /// A new directory that shares all tables. Everything in it is durable but the names.
  Status Checkpoint(const std::string& path);
  /// The digest's line for a file of a checkpoint.
  Result<DigestFile> Describe(const std::string& checkpoint, const std::string& name);
  /// Entries of spaces from `first_space` on.
  Status Visit(
      uint32_t first_space,
      const std::function<Status(uint32_t space, uint64_t id, std::string_view value)>& visit);

  uint64_t base_bytes() const { return LevelBytes(1); }
  uint64_t increment_bytes() const { return LevelBytes(0); }
  uint64_t bytes() const { return base_bytes() + increment_bytes(); }
  /// Since the last merge.
  uint32_t increments() const { return increments_; }

  /// Nothing if one runs, or if the disk has no room for it.
  void StartMerge();
  /// The outcome of the last one.
  Status WaitForMerge();
  /// Written by all merges so far.
  uint64_t merged_bytes() const;

 private:
  Status OpenDatabase();
  void StopMerge();
  void Merge(uint32_t increments);  // on merge_
  void Compact(uint32_t increments);
  uint64_t LevelBytes(int level) const;
  /// What RocksDB knows of its tables by now.
  void LearnChecksums();

  const std::string folder_;
  std::unique_ptr<rocksdb::DB> db_;
  std::shared_ptr<rocksdb::Statistics> statistics_;
  std::map<std::string, std::string> checksums_;  // of tables by name, in hex
  std::map<std::string, DigestFile> described_;   // tables of earlier checkpoints
  std::atomic<uint32_t> increments_ = 0;

  std::thread merge_;
  std::atomic<bool> merging_ = false;
  std::atomic<bool> merge_cancel_ = false;
  std::atomic<bool> merge_failed_ = false;
  Status merge_status_;  // written by the merge, read after joining it
};

}  // namespace mf
