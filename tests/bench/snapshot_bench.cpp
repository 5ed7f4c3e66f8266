// How fast snapshots are written and read, beside what this disk does with one plain file of the
// same size in the same minute.
//   snapshot_bench [--mib N] [--row-bytes N] [--dir DIR]
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "pserver/snapshot/snapshot_files.h"
#include "pserver/snapshot/snapshot_rocksdb.h"
#include "tests/bench/support/flags.h"

namespace mf {
namespace {

double Seconds(const std::function<void()>& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void Require(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "snapshot_bench: %s\n", status.message().c_str());
  std::exit(1);
}

/// Out of the page cache, so that reading means the disk.
void Forget(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY);
  if (file < 0) return;
  fsync(file);
  posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  close(file);
}

void WriteFile(const std::string& path, const std::vector<char>& noise, uint64_t bytes) {
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  for (uint64_t done = 0; done < bytes;) {
    const size_t piece = std::min<uint64_t>(size_t{1} << 20, bytes - done);
    if (write(file, noise.data(), piece) != static_cast<ssize_t>(piece))
      Require(FileError(path, "write"));
    done += piece;
  }
  if (fsync(file) != 0) Require(FileError(path, "sync"));
  close(file);
}

void ReadFile(const std::string& path) {
  std::vector<char> piece(size_t{1} << 20);
  const int file = open(path.c_str(), O_RDONLY);
  while (read(file, piece.data(), piece.size()) > 0) {
  }
  close(file);
}

struct Bench {
  std::string folder;
  uint64_t rows;
  size_t row_bytes;
  std::vector<char> noise;
  std::unique_ptr<SnapshotStore> store;

  /// Every `stride`-th row, from another one each step.
  double Publish(uint64_t step, uint64_t stride) {
    return Seconds([&] {
      Require(store->Begin());
      for (uint64_t row = step % stride; row < rows; row += stride) {
        const char* data = noise.data() + row * 64 % (noise.size() - row_bytes);
        Require(store->Put(0, row, data, row_bytes));
      }
      Require(store->Publish({.step = step, .run_id = "bench", .description = "{}"}));
    });
  }
  double Read(uint64_t step) {
    const std::string path = StepPath(folder, step);
    for (const std::string& name : FileNames(path)) Forget(path + "/" + name);
    return Seconds([&] {
      uint64_t sum = 0;
      const auto read = store->Read(step, [&](uint32_t, uint64_t, const std::byte* data, size_t n) {
        sum += static_cast<uint64_t>(data[n - 1]);
        return Status::Ok();
      });
      Require(read.status());
    });
  }
};

void Line(const char* what, uint64_t bytes, double seconds, double disk_rate) {
  const double rate = static_cast<double>(bytes) / 1e6 / seconds;
  std::printf("%-34s %9.1f %8.3f %9.0f %8.0f%%\n", what, static_cast<double>(bytes) / (1 << 20),
              seconds, rate, 100 * rate / disk_rate);
}

int Run(const std::string& dir, uint64_t mib, size_t row_bytes) {
  std::string parent = dir + "/mf_snapshot_bench_XXXXXX";
  if (mkdtemp(parent.data()) == nullptr) Require(FileError(parent, "make the folder"));
  Bench bench{.folder = parent + "/shard-0-of-1",
              .rows = (mib << 20) / row_bytes,
              .row_bytes = row_bytes,
              .noise = std::vector<char>(size_t{8} << 20),
              .store = nullptr};
  std::mt19937_64 random(1);
  for (size_t i = 0; i + 8 <= bench.noise.size(); i += 8) {
    const uint64_t word = random();
    std::memcpy(bench.noise.data() + i, &word, 8);
  }
  auto opened = OpenRocksSnapshots(bench.folder);
  Require(opened.status());
  bench.store = std::move(opened).value();
  const uint64_t full = bench.rows * row_bytes, few = full / 100;
  const std::string plain = parent + "/plain";
  const auto plain_rate = [&](uint64_t bytes) {
    return static_cast<double>(bytes) / 1e6 /
           Seconds([&] { WriteFile(plain, bench.noise, bytes); });
  };

  std::printf("%llu rows of %zu bytes in %s\n", static_cast<unsigned long long>(bench.rows),
              row_bytes, dir.c_str());
  std::printf("%-34s %9s %8s %9s %9s\n", "", "MiB", "seconds", "MB/s", "of disk");
  // In turns: what else the disk does hits both.
  const double disk_before = plain_rate(full);
  const double first = bench.Publish(1, 1);
  const double disk_after = plain_rate(full);
  const double disk = std::max(disk_before, disk_after);
  std::printf("%-34s %9.1f %8s %9.0f\n", "plain file, write + fsync (best)",
              static_cast<double>(full) / (1 << 20), "", disk);
  Line("publish, all rows", full, first, disk);
  Line("publish, all rows again", full, bench.Publish(2, 1), disk);
  const double disk_few = plain_rate(few);
  std::printf("%-34s %9.1f %8s %9.0f\n", "plain file, write + fsync",
              static_cast<double>(few) / (1 << 20), "", disk_few);
  double seconds = 0;
  uint64_t bytes = 0;
  constexpr int kFew = 10;
  for (uint64_t step = 3; step < 3 + kFew; ++step) {
    seconds += bench.Publish(step, 100);
    bytes += bench.store->last_publish().bytes;
  }
  Line("publish, 1% of the rows (mean)", bytes / kFew, seconds / kFew, disk_few);

  WriteFile(plain, bench.noise, full);
  Forget(plain);
  const double read_rate = static_cast<double>(full) / 1e6 / Seconds([&] { ReadFile(plain); });
  std::printf("%-34s %9.1f %8s %9.0f\n", "plain file, read", static_cast<double>(full) / (1 << 20),
              "", read_rate);
  Line("read back, one run", full, bench.Read(2), read_rate);
  Line("read back, 11 runs", full + kFew * few, bench.Read(2 + kFew), read_rate);
  bench.store.reset();
  std::filesystem::remove_all(parent);
  return 0;
}

}  // namespace
}  // namespace mf

int main(int argc, char** argv) {
  std::string dir = std::filesystem::temp_directory_path();
  uint64_t mib = 1024;
  size_t row_bytes = 6148;  // w, m and v of 512 columns
  mf::ParseFlags(argc, argv, "snapshot_bench [--mib N] [--row-bytes N] [--dir DIR]",
                 {{"--dir", &dir}, {"--mib", &mib}, {"--row-bytes", &row_bytes}});
  return mf::Run(dir, mib, row_bytes);
}
