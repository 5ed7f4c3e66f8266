#include "pserver/snapshot/snapshot_increment.h"

#include <rocksdb/options.h>
#include <rocksdb/sst_file_writer.h>

#include <algorithm>

#include "pserver/snapshot/snapshot_files.h"
#include "pserver/snapshot/snapshot_format.h"
#include "pserver/snapshot/snapshot_options.h"

namespace mf {

class Increment::Writer {
 public:
  explicit Writer(const rocksdb::Options& options)
      : writer(rocksdb::EnvOptions(), options, nullptr, /*invalidate_page_cache=*/true) {}
  rocksdb::SstFileWriter writer;
};

Increment::Increment(std::string folder) : folder_(std::move(folder)) {}
Increment::~Increment() = default;

Status Increment::Begin(uint64_t file_bytes) {
  Drop();
  file_bytes_ = file_bytes;
  MF_RETURN_IF_ERROR(RemoveTree(folder_));
  return MakeScratchFolder(folder_);
}

void Increment::Drop() {
  writer_.reset();
  tables_.clear();
  small_.clear();
  last_.reset();
  entries_ = rows_ = 0;
  if (FileExists(folder_)) (void)RemoveTree(folder_);  // Begin() tries again and reports
}

uint64_t Increment::bytes() const {
  uint64_t bytes = 0;
  for (const IncrementTable& table : tables_) bytes += table.bytes;
  return bytes;
}

Status Increment::Take(const SnapshotKey& key) {
  if (last_ && key <= *last_) {
    return Status::Failed(folder_ + ": entry " + std::to_string(key.id) + " of " +
                          SpaceName(key.space) +
                          " is not above the one before: a bug of this program");
  }
  last_ = key;
  ++entries_;
  return Status::Ok();
}

Status Increment::Put(uint32_t space, uint64_t id, const void* data, size_t bytes) {
  const SnapshotKey key{space, id};
  MF_RETURN_IF_ERROR(Take(key));
  if (space >= kFirstWaitingSpace) {
    small_.push_back({key, std::string(static_cast<const char*>(data), bytes)});
    return Status::Ok();
  }
  ++rows_;
  return Write(key, data, bytes);
}

Status Increment::Remove(uint32_t space, uint64_t id) {
  const SnapshotKey key{space, id};
  MF_RETURN_IF_ERROR(Take(key));
  if (space < kFirstWaitingSpace) return WriteRemoval(key);
  small_.push_back({key, {}, true});
  return Status::Ok();
}

void Increment::Keep(std::vector<Entry> older) {
  std::vector<Entry> all;
  const auto before = [](const Entry& a, const Entry& b) { return a.key < b.key; };
  std::set_union(std::make_move_iterator(small_.begin()), std::make_move_iterator(small_.end()),
                 std::make_move_iterator(older.begin()), std::make_move_iterator(older.end()),
                 std::back_inserter(all), before);  // of equal ones the first range's
  small_ = std::move(all);
}

Status Increment::OpenTable() {
  if (writer_ != nullptr) return Status::Ok();
  auto writer = std::make_unique<Writer>(LiveOptions());
  const std::string path = folder_ + "/" + std::to_string(tables_.size()) + ".sst";
  const rocksdb::Status opened = writer->writer.Open(path);
  if (!opened.ok()) return RocksError(path, "write", opened);
  writer_ = std::move(writer);
  tables_.push_back({.path = path});
  return Status::Ok();
}

Status Increment::WriteRemoval(const SnapshotKey& key) {
  MF_RETURN_IF_ERROR(OpenTable());
  const auto name = EncodeKey(key);
  const rocksdb::Status written = writer_->writer.Delete({name.data(), name.size()});
  if (!written.ok()) return RocksError(tables_.back().path, "write", written);
  return writer_->writer.FileSize() >= file_bytes_ ? FinishTable() : Status::Ok();
}

Status Increment::Write(const SnapshotKey& key, const void* data, size_t bytes) {
  MF_RETURN_IF_ERROR(OpenTable());
  const auto name = EncodeKey(key);
  const rocksdb::Status written =
      writer_->writer.Put({name.data(), name.size()}, {static_cast<const char*>(data), bytes});
  if (!written.ok()) return RocksError(tables_.back().path, "write", written);
  return writer_->writer.FileSize() >= file_bytes_ ? FinishTable() : Status::Ok();
}

Status Increment::FinishTable() {
  if (writer_ == nullptr) return Status::Ok();
  rocksdb::ExternalSstFileInfo info;
  const rocksdb::Status finished = writer_->writer.Finish(&info);  // syncs
  writer_.reset();
  IncrementTable& table = tables_.back();
  if (!finished.ok()) return RocksError(table.path, "write", finished);
  table.bytes = info.file_size;
  table.checksum = info.file_checksum;
  table.checksum_name = info.file_checksum_func_name;
  return Status::Ok();
}

Status Increment::Finish() {
  // In the same table as the last rows: one of their own overlaps nothing, would become part of the
  // base at once, and the base would get a tiny file with every increment.
  for (const Entry& entry : small_)
    MF_RETURN_IF_ERROR(entry.removed ? WriteRemoval(entry.key)
                                     : Write(entry.key, entry.value.data(), entry.value.size()));
  small_.clear();
  return FinishTable();
}

}  // namespace mf
