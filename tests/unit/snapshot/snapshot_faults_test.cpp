// Goal: whatever call to the disk fails in a publish, a reset or a merge, once or from then on (a
// full disk), the published snapshots are as before, nothing crashes, and the store works again
// when the disk does. The calls of this process, RocksDB's among them, go through the functions
// below.
#include <dlfcn.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <filesystem>

#include "common/base/logging.h"
#include "pserver/snapshot/snapshot_files.h"
#include "pserver/snapshot/snapshot_rocksdb.h"
#include "tests/support/snapshots/snapshot_model.h"

namespace {

enum class Fault { kNone, kOnce, kFromThenOn };
std::atomic<Fault> fault_mode = Fault::kNone;
std::atomic<int> fault_at = 0;  // counts from 1
std::atomic<int> fault_calls = 0;

/// Whether this call is to fail; sets errno.
bool Fails(int error) {
  const Fault mode = fault_mode;
  if (mode == Fault::kNone) return false;
  const int call = ++fault_calls;
  if (mode == Fault::kOnce ? call != fault_at : call < fault_at) return false;
  errno = error;
  return true;
}

template <class Function>
Function* Real(Function*, const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

// Symbols of the program come before those of the C library, for all shared libraries too.
extern "C" {

int open(const char* path, int flags, ...) {
  static const auto real = Real(&open, "open");
  mode_t mode = 0;
  if ((flags & O_CREAT) != 0) {
    va_list arguments;
    va_start(arguments, flags);
    mode = va_arg(arguments, mode_t);
    va_end(arguments);
  }
  if ((flags & (O_CREAT | O_WRONLY | O_RDWR)) != 0 && Fails(ENOSPC)) return -1;
  return real(path, flags, mode);
}
ssize_t write(int file, const void* data, size_t bytes) {
  static const auto real = Real(&write, "write");
  if (!Fails(ENOSPC)) return real(file, data, bytes);
  (void)!real(file, data, bytes / 2);  // a full disk takes what fits
  errno = ENOSPC;
  return -1;
}
ssize_t pwrite(int file, const void* data, size_t bytes, off_t offset) {
  static const auto real = Real(&pwrite, "pwrite");
  return Fails(ENOSPC) ? -1 : real(file, data, bytes, offset);
}
ssize_t sendfile(int out, int in, off_t* offset, size_t bytes) noexcept {
  static const auto real = Real(&sendfile, "sendfile");
  return Fails(ENOSPC) ? -1 : real(out, in, offset, bytes);
}
// Syncs are counted and not done: the test is about errors, and has thousands of them.
int fsync(int) { return Fails(EIO) ? -1 : 0; }
int fdatasync(int) { return Fails(EIO) ? -1 : 0; }
int rename(const char* from, const char* to) noexcept {
  static const auto real = Real(&rename, "rename");
  return Fails(ENOSPC) ? -1 : real(from, to);
}
int link(const char* from, const char* to) noexcept {
  static const auto real = Real(&link, "link");
  return Fails(ENOSPC) ? -1 : real(from, to);
}
int mkdir(const char* path, mode_t mode) noexcept {
  static const auto real = Real(&mkdir, "mkdir");
  return Fails(ENOSPC) ? -1 : real(path, mode);
}
int unlink(const char* path) noexcept {
  static const auto real = Real(&unlink, "unlink");
  return Fails(EIO) ? -1 : real(path);
}
int unlinkat(int folder, const char* path, int flags) noexcept {
  static const auto real = Real(&unlinkat, "unlinkat");
  return Fails(EIO) ? -1 : real(folder, path, flags);
}

}  // extern "C"

namespace mf {
namespace {

struct Case {
  const char* name;
  double share;  // of the rows in an increment
  uint32_t merge_increments;
};

class SnapshotFaultsTest : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr uint64_t kRows = 100;

  void Open() {
    store_.reset();
    const RocksSnapshotOptions options{
        .file_bytes = 10000, .merge_ratio = 1e9, .merge_increments = GetParam().merge_increments};
    auto opened = OpenRocksSnapshots(folder_.path(), options);
    ASSERT_TRUE(opened.ok()) << opened.status().message();
    store_ = std::move(opened).value();
  }
  /// Changes some rows and returns what has to be published: those and what failed before.
  void Change() {
    ++version_;
    for (auto& [key, value] :
         RowEntries({.rows = kRows, .bytes = 200, .version = version_, .share = GetParam().share},
                    &random_)) {
      state_[key] = pending_[key] = value;
    }
    const SnapshotKey rate{kRateSpace, version_};
    state_[rate] = pending_[rate] = std::string(8, 'r');
  }
  Status Publish() {
    const Status status = PublishEntries(*store_, version_, pending_);
    if (!status.ok()) {
      store_->Abandon();
      EXPECT_EQ(status.message().find('\n'), std::string::npos);
      return status;
    }
    pending_.clear();
    steps_[version_] = state_;
    return status;
  }
  void Check(const std::string& what) {
    std::vector<uint64_t> wanted;
    for (const auto& [step, state] : steps_) {
      wanted.push_back(step);
      Entries found;
      const auto info = ReadEntries(*store_, step, &found);
      ASSERT_TRUE(info.ok()) << what << ": " << info.status().message();
      ASSERT_TRUE(found == state) << what << ": step " << step;
    }
    ASSERT_EQ(store_->Published(), wanted) << what;
    // A name that could be neither made durable nor taken back may be seen by the next start.
    std::vector<uint64_t> seen = StepsIn(folder_.path());
    if (seen.size() > wanted.size() && seen.back() == version_) seen.pop_back();
    ASSERT_EQ(seen, wanted) << what;
  }
  void Arm(Fault mode, int at) {
    fault_at = at;
    fault_calls = 0;
    fault_mode = mode;
  }
  /// True if a fault came: there was a call to fail.
  bool Disarm() {
    fault_mode = Fault::kNone;
    return fault_calls >= fault_at;
  }

  TemporaryFolder folder_{TemporaryFolder::Where::kMemory};
  std::unique_ptr<SnapshotStore> store_;
  std::mt19937_64 random_{1};
  uint64_t version_ = 0;
  Entries state_, pending_;
  std::map<uint64_t, Entries> steps_;
};

TEST_P(SnapshotFaultsTest, EveryCallOfAPublish) {
  ASSERT_TRUE(SetUpLogging("off").ok());
  for (const Fault mode : {Fault::kOnce, Fault::kFromThenOn}) {
    Open();
    if (!steps_.empty()) {
      ASSERT_TRUE(store_->Reset(version_).ok());
    } else {
      Change();
      ASSERT_TRUE(Publish().ok());
    }
    bool fired = true;
    int failed = 0, at = 1;
    for (; fired; ++at) {
      ASSERT_LT(at, 2000);
      const std::string what = std::string(GetParam().name) + ", call " + std::to_string(at);
      Change();
      Arm(mode, at);
      const Status status = Publish();
      store_->WaitForMerge();
      fired = Disarm();
      failed += !status.ok();
      ASSERT_TRUE(fired || status.ok()) << what << ": " << status.message();
      ASSERT_NO_FATAL_FAILURE(Check(what + ", " + status.message()));
      if (at % 3 == 0) {  // sometimes the process ends here
        Open();
        if (store_->Published().back() == version_) {
          steps_[version_] = state_;
          pending_.clear();
        }
        ASSERT_TRUE(store_->Reset(steps_.rbegin()->first).ok());
        ASSERT_NO_FATAL_FAILURE(Check(what + ", after a start"));
      }
      if (at % 2 == 0) Change();
      if (!pending_.empty()) {
        ++version_;  // the old number may be taken by a folder of no use
        const Status again = Publish();
        store_->WaitForMerge();
        ASSERT_TRUE(again.ok()) << what << ": " << status.message() << "; then " << again.message();
        ASSERT_NO_FATAL_FAILURE(Check(what + ", again"));
      }
      while (steps_.size() > 2) {
        ASSERT_TRUE(store_->Delete(steps_.begin()->first).ok());
        steps_.erase(steps_.begin());
      }
    }
    std::printf("%s, %s: %d calls, %d of them ended the publish\n", GetParam().name,
                mode == Fault::kOnce ? "one fails" : "all fail from then on", at - 2, failed);
    EXPECT_GT(failed, 10);
  }
}

class SnapshotStartFaultsTest : public SnapshotFaultsTest {};

TEST_P(SnapshotStartFaultsTest, EveryCallOfAResetADeletionAndAStart) {
  ASSERT_TRUE(SetUpLogging("off").ok());
  for (const Fault mode : {Fault::kOnce, Fault::kFromThenOn}) {
    bool fired = true;
    for (int at = 1; fired; ++at) {
      ASSERT_LT(at, 2000);
      const std::string what = std::string(GetParam().name) + ", call " + std::to_string(at);
      Open();
      if (!steps_.empty()) {
        ASSERT_TRUE(store_->Reset(steps_.rbegin()->first).ok());
      }
      while (steps_.size() < 3) {
        Change();
        ASSERT_TRUE(Publish().ok());
      }
      Arm(mode, at);
      auto opened = OpenRocksSnapshots(folder_.path() + "/../" +
                                       std::filesystem::path(folder_.path()).filename().string());
      const uint64_t newest = steps_.rbegin()->first;
      Status gone, reset;
      if (opened.ok()) {
        store_ = std::move(opened).value();
        gone = store_->Delete(newest);
        reset = store_->Reset(std::next(steps_.begin())->first);
      }
      fired = Disarm();
      ASSERT_TRUE(fired || (gone.ok() && reset.ok())) << gone.message() << reset.message();
      Open();
      // Deleted, whole, or, where only the sync failed, either.
      if (StepsIn(folder_.path()).size() == 2) {
        steps_.erase(newest);
      } else {
        EXPECT_FALSE(opened.ok() && gone.ok());
      }
      ASSERT_NO_FATAL_FAILURE(Check(what));
      state_ = steps_.rbegin()->second;
      pending_.clear();
      ASSERT_TRUE(store_->Reset(steps_.rbegin()->first).ok());
    }
  }
}

std::string NameOf(const ::testing::TestParamInfo<Case>& test) {
  std::string name = test.param.name;
  std::replace(name.begin(), name.end(), ' ', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Increments, SnapshotFaultsTest,
                         ::testing::Values(Case{"few rows", 0.1, 5}, Case{"all rows", 1.0, 1000},
                                           Case{"few rows and a merge", 0.1, 1}),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Increments, SnapshotStartFaultsTest,
                         ::testing::Values(Case{"few rows", 0.1, 5}), NameOf);

}  // namespace
}  // namespace mf
