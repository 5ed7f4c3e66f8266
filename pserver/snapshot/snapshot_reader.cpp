#include "pserver/snapshot/snapshot_reader.h"

#include <rocksdb/db.h>
#include <rocksdb/options.h>

#include <algorithm>
#include <map>
#include <optional>

#include "pserver/snapshot/snapshot_files.h"
#include "pserver/snapshot/snapshot_key.h"
#include "pserver/snapshot/snapshot_options.h"
#include "pserver/snapshot/snapshot_rocksdb.h"

namespace mf {
namespace {

/// Of more, of which each has 128 MiB, some are opened when they are met.
constexpr size_t kFilesHeld = 512;

/// RocksDB's message with the file it names; else the snapshot's folder.
Status Unreadable(const std::string& folder, const rocksdb::Status& status) {
  std::string text = status.ToString();
  std::replace(text.begin(), text.end(), '\n', ' ');
  // A disk or a process that is short of something now says nothing about what was written.
  return status.IsIOError() || status.IsBusy() || status.IsMemoryLimit()
             ? Status::Failed(folder + ": cannot be read now: " + text)
             : Damaged(folder, text);
}

class RocksCursor : public SnapshotCursor {
 public:
  RocksCursor(std::string folder, SnapshotDigest digest)
      : folder_(std::move(folder)), digest_(std::move(digest)) {}

  Status Open() {
    rocksdb::DB* db = nullptr;
    rocksdb::Options options = ReaderOptions();
    // All files at once, so that a snapshot that is deleted meanwhile can be read to its end.
    if (digest_.files.size() <= kFilesHeld) options.max_open_files = -1;
    options.max_file_opening_threads = 1;
    const rocksdb::Status opened = rocksdb::DB::OpenForReadOnly(options, folder_, &db);
    if (!opened.ok()) return Unreadable(folder_, opened);
    db_.reset(db);
    rocksdb::ReadOptions read;
    read.verify_checksums = true;
    // Runs are read side by side: large enough for a disk, small enough for hundreds of them.
    read.readahead_size = digest_.files.size() < 64 ? size_t{1} << 20 : size_t{256} << 10;
    iterator_.reset(db_->NewIterator(read));
    iterator_->SeekToFirst();
    Take();
    return status_;
  }

  bool Valid() const override { return valid_; }
  void Next() override {
    iterator_->Next();
    Take();
  }
  Status status() const override { return status_; }
  uint32_t space() const override { return key_.space; }
  uint64_t id() const override { return key_.id; }
  const std::byte* data() const override {
    return reinterpret_cast<const std::byte*>(iterator_->value().data());
  }
  size_t bytes() const override { return iterator_->value().size(); }

  const SnapshotInfo& info() const { return digest_.info; }

 private:
  /// Looks at the entry where the iterator stands.
  void Take() {
    valid_ = false;
    if (!iterator_->Valid()) {
      if (!iterator_->status().ok()) {
        status_ = Unreadable(folder_, iterator_->status());
      } else {
        CheckCounts();
      }
      return;
    }
    const rocksdb::Slice key = iterator_->key();
    if (key.size() != kSnapshotKeyBytes) {
      status_ = Damaged(folder_, "a key of " + std::to_string(key.size()) + " bytes");
      return;
    }
    key_ = DecodeKey({key.data(), key.size()});
    valid_ = true;
    SpaceCount& count = counts_[key_.space];
    count.space = key_.space;
    ++count.entries;
    count.bytes += iterator_->value().size();
  }

  /// At the end: exactly the entries that were published.
  void CheckCounts() {
    bool same = counts_.size() == digest_.spaces.size();
    for (const SpaceCount& wanted : digest_.spaces) {
      const SpaceCount& found = counts_[wanted.space];
      same = same && found.entries == wanted.entries && found.bytes == wanted.bytes;
    }
    if (!same) {
      status_ = Damaged(folder_ + "/" + kDigestName,
                        "counts other entries than the tables of this snapshot hold");
    }
  }

  const std::string folder_;
  const SnapshotDigest digest_;
  std::unique_ptr<rocksdb::DB> db_;
  std::unique_ptr<rocksdb::Iterator> iterator_;  // goes before db_
  std::map<uint32_t, SpaceCount> counts_;
  SnapshotKey key_;
  bool valid_ = false;
  Status status_;
};

Result<std::unique_ptr<RocksCursor>> OpenCursor(const std::string& folder) {
  MF_ASSIGN_OR_RETURN(SnapshotDigest digest, LoadDigest(folder));
  MF_RETURN_IF_ERROR(CheckFiles(digest, folder, false));
  auto cursor = std::make_unique<RocksCursor>(folder, std::move(digest));
  MF_RETURN_IF_ERROR(cursor->Open());
  return cursor;
}

/// Lists the folder anew for every question: somebody else writes it.
class RocksReader : public SnapshotReader {
 public:
  explicit RocksReader(std::string folder) : folder_(std::move(folder)) {}
  std::vector<uint64_t> Published() const override { return StepsIn(folder_); }
  Result<SnapshotSummary> Summary(uint64_t step) const override {
    return SummaryOfSnapshot(StepPath(folder_, step));
  }
  Result<SnapshotInfo> Info(uint64_t step) const override {
    MF_ASSIGN_OR_RETURN(const SnapshotSummary summary, Summary(step));
    return summary.info;
  }
  Status VerifyFiles(uint64_t step) const override {
    return VerifySnapshotFiles(StepPath(folder_, step));
  }
  Result<std::unique_ptr<SnapshotCursor>> Open(uint64_t step) const override {
    return OpenSnapshotCursor(StepPath(folder_, step));
  }
  Result<SnapshotInfo> Read(uint64_t step, const SnapshotVisit& visit) override {
    return ReadSnapshot(StepPath(folder_, step), visit);
  }

 private:
  const std::string folder_;
};

}  // namespace

Result<std::unique_ptr<SnapshotCursor>> OpenSnapshotCursor(const std::string& folder) {
  MF_ASSIGN_OR_RETURN(std::unique_ptr<RocksCursor> cursor, OpenCursor(folder));
  return std::unique_ptr<SnapshotCursor>(std::move(cursor));
}

Result<SnapshotInfo> ReadSnapshot(const std::string& folder, const SnapshotVisit& visit) {
  MF_ASSIGN_OR_RETURN(const std::unique_ptr<RocksCursor> cursor, OpenCursor(folder));
  for (; cursor->Valid(); cursor->Next()) {
    MF_RETURN_IF_ERROR(visit(cursor->space(), cursor->id(), cursor->data(), cursor->bytes()));
  }
  MF_RETURN_IF_ERROR(cursor->status());
  return cursor->info();
}

Result<SnapshotSummary> SummaryOfSnapshot(const std::string& folder) {
  MF_ASSIGN_OR_RETURN(const SnapshotDigest digest, LoadDigest(folder));
  return digest.Summary();
}

Status VerifySnapshotFiles(const std::string& folder) {
  MF_ASSIGN_OR_RETURN(const SnapshotDigest digest, LoadDigest(folder));
  return CheckFiles(digest, folder, true);
}

Result<std::unique_ptr<SnapshotReader>> OpenRocksSnapshotReader(const std::string& folder) {
  MF_RETURN_IF_ERROR(CheckFolder(folder, "name a folder of snapshots"));
  return std::unique_ptr<SnapshotReader>(new RocksReader(folder));
}

}  // namespace mf
