#include "pserver/snapshot/snapshot_options.h"

#include <rocksdb/env.h>
#include <rocksdb/file_checksum.h>
#include <rocksdb/options.h>
#include <rocksdb/status.h>
#include <rocksdb/table.h>

#include <algorithm>
#include <climits>

namespace mf {
namespace {

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
  options.info_log = std::make_shared<SilentLogger>();
  options.max_open_files = 256;
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
  return Status::Failed(path + ": cannot " + what + ": " + text +
                        "; look at this disk and its free space");
}

}  // namespace mf
