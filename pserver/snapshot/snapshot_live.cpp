#include "pserver/snapshot/snapshot_live.h"

#include <rocksdb/db.h>
#include <rocksdb/metadata.h>
#include <rocksdb/options.h>
#include <rocksdb/statistics.h>
#include <rocksdb/utilities/checkpoint.h>
#include <spdlog/spdlog.h>

#include <filesystem>
#include <new>
#include <system_error>

#include "common/base/machine_limits.h"
#include "pserver/snapshot/snapshot_files.h"
#include "pserver/snapshot/snapshot_key.h"
#include "pserver/snapshot/snapshot_options.h"

namespace mf {
namespace {
constexpr int kThreads = 3;
}  // namespace

LiveDatabase::LiveDatabase(std::string folder)
    : folder_(std::move(folder)), statistics_(rocksdb::CreateDBStatistics()) {}

LiveDatabase::~LiveDatabase() { Invalidate(); }

void LiveDatabase::Invalidate() {
  StopMerge();
  db_.reset();
  merge_failed_ = false;
}

Status LiveDatabase::Remove() {
  Invalidate();
  return RemoveTree(folder_);
}

Status LiveDatabase::Rebuild(const std::string& from) {
  MF_RETURN_IF_ERROR(Remove());
  checksums_.clear();
  described_.clear();
  increments_ = 0;
  if (!from.empty()) {
    MF_ASSIGN_OR_RETURN(const SnapshotDigest digest, LoadDigest(from));
    for (const DigestFile& file : digest.files)
      if (file.is_table()) described_[file.name] = file;
    increments_ = digest.increments;
    MF_RETURN_IF_ERROR(LinkDatabase(from, folder_, kDigestName));
  }
  return OpenDatabase();
}

Status LiveDatabase::Reopen() {
  Invalidate();
  return OpenDatabase();
}

Status LiveDatabase::OpenDatabase() {
  rocksdb::Options options = LiveOptions();
  options.statistics = statistics_;
  // Its own, which it starts when it needs them, and that of a merge.
  MF_RETURN_IF_ERROR(CheckThreads(kThreads));
  rocksdb::DB* db = nullptr;
  const rocksdb::Status opened = rocksdb::DB::Open(options, folder_, &db);
  if (!opened.ok()) return RocksError(folder_, "open", opened);
  db_.reset(db);
  // Merging is nobody's hurry: workers wait for servers.
  options.env->LowerThreadPoolIOPriority(rocksdb::Env::LOW);
  options.env->LowerThreadPoolCPUPriority(rocksdb::Env::LOW);
  return Status::Ok();
}

Status LiveDatabase::Ingest(const std::vector<IncrementTable>& tables) {
  if (tables.empty()) return Status::Ok();
  rocksdb::IngestExternalFileArg argument;
  argument.column_family = db_->DefaultColumnFamily();
  for (const IncrementTable& table : tables) {
    argument.external_files.push_back(table.path);
    argument.files_checksums.push_back(table.checksum);
    argument.files_checksum_func_names.push_back(table.checksum_name);
  }
  argument.options.move_files = true;
  argument.options.failed_move_fall_back_to_copy = true;
  argument.options.write_global_seqno = false;    // it would change the file behind its checksum
  argument.options.verify_file_checksum = false;  // it was computed a moment ago
  const uint64_t base_before = base_bytes();
  const rocksdb::Status ingested = db_->IngestExternalFiles({argument});
  if (!ingested.ok()) return RocksError(folder_, "take in the increment", ingested);
  if (base_before > 0) ++increments_;
  return Status::Ok();
}

Status LiveDatabase::Checkpoint(const std::string& path) {
  LearnChecksums();  // a merge may end at any time: before and after together know all tables
  rocksdb::Checkpoint* made = nullptr;
  rocksdb::Status status = rocksdb::Checkpoint::Create(db_.get(), &made);
  const std::unique_ptr<rocksdb::Checkpoint> checkpoint(made);
  if (status.ok()) status = checkpoint->CreateCheckpoint(path);
  LearnChecksums();
  return status.ok() ? Status::Ok() : RocksError(path, "write the checkpoint", status);
}

void LiveDatabase::LearnChecksums() {
  std::vector<rocksdb::LiveFileMetaData> files;
  db_->GetLiveFilesMetaData(&files);
  for (const rocksdb::LiveFileMetaData& file : files)
    checksums_[file.relative_filename] = HexOf(file.file_checksum);
}

Result<DigestFile> LiveDatabase::Describe(const std::string& checkpoint, const std::string& name) {
  if (const auto found = described_.find(name); found != described_.end()) return found->second;
  const auto known = checksums_.find(name);
  MF_ASSIGN_OR_RETURN(
      DigestFile file,
      DescribeFile(checkpoint, name, known == checksums_.end() ? std::string() : known->second));
  if (file.is_table()) described_[name] = file;
  return file;
}

Status LiveDatabase::Visit(
    uint32_t first_space,
    const std::function<Status(uint32_t space, uint64_t id, std::string_view value)>& visit) {
  rocksdb::ReadOptions read;
  read.readahead_size = size_t{256} << 10;
  const std::unique_ptr<rocksdb::Iterator> iterator(db_->NewIterator(read));
  const auto first = EncodeKey({first_space, 0});
  for (iterator->Seek({first.data(), first.size()}); iterator->Valid(); iterator->Next()) {
    const rocksdb::Slice name = iterator->key(), value = iterator->value();
    if (name.size() != kSnapshotKeyBytes) return Damaged(folder_, "a key of another size");
    const SnapshotKey key = DecodeKey({name.data(), name.size()});
    MF_RETURN_IF_ERROR(visit(key.space, key.id, {value.data(), value.size()}));
  }
  if (!iterator->status().ok()) return RocksError(folder_, "read", iterator->status());
  return Status::Ok();
}

uint64_t LiveDatabase::LevelBytes(int level) const {
  if (db_ == nullptr) return 0;
  rocksdb::ColumnFamilyMetaData data;
  db_->GetColumnFamilyMetaData(&data);
  for (const rocksdb::LevelMetaData& item : data.levels)
    if (item.level == level) return item.size;
  return 0;
}

uint64_t LiveDatabase::merged_bytes() const {
  return statistics_->getTickerCount(rocksdb::COMPACT_WRITE_BYTES);
}

void LiveDatabase::StartMerge() {
  if (merging_ || db_ == nullptr) return;
  (void)WaitForMerge();  // the one before has said how it went
  std::error_code error;
  const auto space = std::filesystem::space(folder_, error);
  // As much as all inputs at worst, and a tenth to spare: a merge is no reason to fill a disk.
  // Some file systems do not know: no size at all.
  if (!error && space.capacity > 0 && space.available < bytes() + bytes() / 10) {
    spdlog::warn(
        "{}: {} bytes free, a merge of snapshots needs {}; free some: until then they grow",
        folder_, space.available, bytes() + bytes() / 10);
    return;
  }
  merging_ = true;
  merge_cancel_ = false;
  try {
    merge_ = std::thread([this, count = increments_.load()] { Merge(count); });
  } catch (const std::system_error& refused) {
    merging_ = false;
    spdlog::warn("{}: no thread to merge snapshots ({}); until then they grow", folder_,
                 refused.code().message());
  }
}

void LiveDatabase::Merge(uint32_t increments) {
  try {
    Compact(increments);
  } catch (const std::bad_alloc&) {
    merge_status_ = Status::Failed("out of memory");  // short: takes none itself
    merge_failed_ = true;
  }
  merging_ = false;
}

void LiveDatabase::Compact(uint32_t increments) {
  rocksdb::CompactRangeOptions options;
  options.exclusive_manual_compaction = false;
  options.canceled = &merge_cancel_;
  // Small files of the base that no increment overlaps become one too.
  options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForceOptimized;
  const rocksdb::Status status = db_->CompactRange(options, nullptr, nullptr);
  if (status.ok()) {
    increments_ -= increments;
  } else if (!merge_cancel_) {
    merge_status_ = RocksError(folder_, "merge snapshots", status);
    merge_failed_ = true;
    spdlog::warn("{}", merge_status_.message());
  }
}

Status LiveDatabase::WaitForMerge() {
  if (merge_.joinable()) merge_.join();
  return merge_failed_ ? merge_status_ : Status::Ok();
}

void LiveDatabase::StopMerge() {
  merge_cancel_ = true;
  (void)WaitForMerge();  // given up, whatever came of it
}

}  // namespace mf
