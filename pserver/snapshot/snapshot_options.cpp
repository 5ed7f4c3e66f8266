#include "pserver/snapshot/snapshot_options.h"

#include <rocksdb/env.h>
#include <rocksdb/file_checksum.h>
#include <rocksdb/file_system.h>
#include <rocksdb/options.h>
#include <rocksdb/status.h>
#include <rocksdb/table.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

#include "common/base/files.h"

namespace mf {
namespace {

rocksdb::IOStatus AsRocks(const Status& status) {
  return status.ok() ? rocksdb::IOStatus::OK() : rocksdb::IOStatus::IOError(status.message());
}

class Folder : public rocksdb::FSDirectory {
 public:
  explicit Folder(std::string path) : path_(std::move(path)) {}
  rocksdb::IOStatus Fsync(const rocksdb::IOOptions&, rocksdb::IODebugContext*) override {
    return AsRocks(SyncPath(path_));
  }
  rocksdb::IOStatus Close(const rocksdb::IOOptions&, rocksdb::IODebugContext*) override {
    return rocksdb::IOStatus::OK();
  }

 private:
  const std::string path_;
};

/// The system's files with what common/base/files.h knows of file systems that are not all alike:
/// RocksDB by itself copies for some errors of link() only, and fails where a folder cannot be
/// synced or a file not be locked.
class AnyFileSystem : public rocksdb::FileSystemWrapper {
 public:
  AnyFileSystem() : FileSystemWrapper(rocksdb::FileSystem::Default()) {}
  const char* Name() const override { return "MfAnyFileSystem"; }

  rocksdb::IOStatus LinkFile(const std::string& from, const std::string& to,
                             const rocksdb::IOOptions&, rocksdb::IODebugContext*) override {
    return AsRocks(LinkOrCopy(from, to));
  }
  rocksdb::IOStatus NewDirectory(const std::string& path, const rocksdb::IOOptions&,
                                 std::unique_ptr<rocksdb::FSDirectory>* folder,
                                 rocksdb::IODebugContext*) override {
    if (!mf::FileExists(path + "/.")) return rocksdb::IOStatus::PathNotFound(path);
    *folder = std::make_unique<Folder>(path);
    return rocksdb::IOStatus::OK();
  }
  // The live database is in a folder that its server has locked (pserver/shard/data_directory.h),
  // or was told to use without.
  rocksdb::IOStatus LockFile(const std::string& path, const rocksdb::IOOptions& options,
                             rocksdb::FileLock** lock, rocksdb::IODebugContext* debug) override {
    rocksdb::IOStatus status = FileSystemWrapper::LockFile(path, options, lock, debug);
    const std::string text = status.ToString();
    for (const int error : {ENOLCK, EOPNOTSUPP, ENOSYS}) {
      if (status.ok() || text.find(std::strerror(error)) == std::string::npos) continue;
      *lock = new NoLock;
      return rocksdb::IOStatus::OK();
    }
    return status;
  }
  rocksdb::IOStatus UnlockFile(rocksdb::FileLock* lock, const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override {
    if (dynamic_cast<NoLock*>(lock) == nullptr)
      return FileSystemWrapper::UnlockFile(lock, options, debug);
    delete lock;
    return rocksdb::IOStatus::OK();
  }

 private:
  class NoLock : public rocksdb::FileLock {};
};

/// RocksDB keeps the pointer for as long as any database lives.
rocksdb::Env* Environment() {
  static rocksdb::Env* const environment =
      rocksdb::NewCompositeEnv(std::make_shared<AnyFileSystem>()).release();
  return environment;
}

/// RocksDB's log would be a file in the snapshot, written even by a reader. What matters comes back
/// as a Status.
class SilentLogger : public rocksdb::Logger {
 public:
  SilentLogger() : Logger(rocksdb::FATAL_LEVEL) {}
  ~SilentLogger() override = default;
  using Logger::Logv;
  void Logv(const char*, va_list) override {}
  rocksdb::Status Close() override { return rocksdb::Status::OK(); }
};

}  // namespace

rocksdb::Options ReaderOptions() {
  rocksdb::Options options;
  options.env = Environment();
  options.info_log = std::make_shared<SilentLogger>();
  options.max_open_files = 256;
  // RocksDB opens files on threads of its own, 16 by default, and ends the process if it does not
  // get one of them.
  options.max_file_opening_threads = 1;
  options.stats_dump_period_sec = options.stats_persist_period_sec = 0;
  rocksdb::BlockBasedTableOptions table;
  // Entries are 0.2 to 24 KiB and only ever read in order: large blocks, no cache, no filters.
  table.block_size = size_t{64} << 10;
  table.no_block_cache = true;
  table.format_version = 5;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

rocksdb::Options LiveOptions() {
  rocksdb::Options options = ReaderOptions();
  options.create_if_missing = true;
  // Two levels: the base, and increments that overlap it, each a run of its own. Merging is ours to
  // start: RocksDB's triggers count files, we weigh bytes.
  options.num_levels = 2;
  options.disable_auto_compactions = true;
  options.level0_slowdown_writes_trigger = INT_MAX;
  options.level0_stop_writes_trigger = INT_MAX;
  options.target_file_size_base = uint64_t{128} << 20;
  options.max_background_jobs = 2;  // one of them merges
  // Random float32 do not compress.
  options.compression = rocksdb::kNoCompression;
  // A checksum of every file comes with writing it, so DIGEST costs no second reading.
  options.file_checksum_gen_factory = rocksdb::GetFileChecksumGenCrc32cFactory();
  options.bytes_per_sync = uint64_t{4} << 20;
  options.skip_stats_update_on_db_open = true;
  return options;
}

Status RocksError(const std::string& path, const std::string& what, const rocksdb::Status& status) {
  std::string text = status.ToString();
  std::replace(text.begin(), text.end(), '\n', ' ');
  const bool said = text.find("; ") != std::string::npos;  // by FileError(): what to do
  return Status::Failed(path + ": cannot " + what + ": " + text +
                        (said ? "" : "; look at this disk and its free space"));
}

}  // namespace mf
