// Goal: what was published is read back, whatever increments, deletions, resets and merges came
// before, and costs what it should in bytes.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <random>

#include "pserver/snapshot/snapshot_files.h"
#include "pserver/snapshot/snapshot_rocksdb.h"
#include "tests/support/snapshots/snapshot_model.h"

namespace mf {
namespace {

namespace fs = std::filesystem;

class SnapshotStoreTest : public ::testing::Test {
 protected:
  /// Opens the store as after a start.
  void Open(const RocksSnapshotOptions& options = {}) {
    store_.reset();
    auto opened = OpenRocksSnapshots(folder_.path(), options);
    ASSERT_TRUE(opened.ok()) << opened.status().message();
    store_ = std::move(opened).value();
  }
  void Publish(uint64_t step, const Entries& changed) {
    const Status status = PublishEntries(*store_, step, changed);
    ASSERT_TRUE(status.ok()) << status.message();
    for (const auto& [key, value] : changed) state_[key] = value;
    steps_[step] = state_;
  }
  /// Every published step holds what it held when it was published.
  void CheckAll() {
    std::vector<uint64_t> wanted;
    for (const auto& [step, state] : steps_) {
      wanted.push_back(step);
      Entries found;
      const auto info = ReadEntries(*store_, step, &found);
      ASSERT_TRUE(info.ok()) << info.status().message();
      EXPECT_EQ(info.value().step, step);
      EXPECT_EQ(found, state) << "step " << step;
    }
    EXPECT_EQ(store_->Published(), wanted);
  }

  TemporaryFolder folder_;
  std::unique_ptr<SnapshotStore> store_;
  Entries state_;
  std::map<uint64_t, Entries> steps_;
};

TEST_F(SnapshotStoreTest, RoundTrip) {
  Open();
  EXPECT_TRUE(store_->Published().empty());
  Entries entries = RowEntries({.rows = 1000, .bytes = 300, .version = 1});
  entries[{kRateSpace, 1}] = std::string(8, 'r');
  entries[{kRecordSpace, 10}] = std::string(36, 's');
  entries[{7, UINT64_MAX}] = std::string(4, 'x');
  Publish(10, entries);
  CheckAll();
  const PublishStats stats = store_->last_publish();
  EXPECT_EQ(stats.rows, entries.size());
  EXPECT_GT(stats.bytes, uint64_t{300} * 1000);

  const auto summary = store_->Summary(10);
  ASSERT_TRUE(summary.ok()) << summary.status().message();
  const SnapshotInfo& info = summary.value().info;
  EXPECT_EQ(info.run_id, TestInfo(10).run_id);
  EXPECT_EQ(info.description, TestInfo(10).description);
  EXPECT_EQ(info.shard, 1U);
  EXPECT_EQ(info.shards, 3U);
  EXPECT_EQ(info.applied, TestInfo(10).applied);
  ASSERT_EQ(summary.value().spaces.size(), 6U);
  uint64_t rows = 0, bytes = 0;
  for (size_t space = 0; space < 3; ++space) {
    rows += summary.value().spaces[space].entries;
    bytes += summary.value().spaces[space].bytes;
  }
  EXPECT_EQ(rows, 1000U);
  EXPECT_EQ(bytes, 300000U);
  EXPECT_TRUE(store_->VerifyFiles(10).ok());

  Open();  // a new process
  CheckAll();
  EXPECT_FALSE(store_->Info(11).ok());
  EXPECT_FALSE(fs::exists(StepPath(folder_.path(), 10) + "/LOG"));
}

TEST_F(SnapshotStoreTest, AnEmptySnapshotIsOne) {
  Open();
  Publish(3, {});
  CheckAll();
  Publish(4, RowEntries({.rows = 2, .version = 1}));
  CheckAll();
  Open();
  ASSERT_TRUE(store_->Reset(4).ok());
  Publish(5, {});
  CheckAll();
}

// Goal: increments of any kind on top of each other, with merges between, over restarts.
TEST_F(SnapshotStoreTest, IncrementsDeletionsAndResets) {
  for (const uint32_t merge_increments : {2U, 1000U}) {
    const RocksSnapshotOptions options{
        .file_bytes = 40000, .merge_ratio = 0.5, .merge_increments = merge_increments};
    steps_.clear();
    state_.clear();
    for (const std::string& name : FileNames(folder_.path()))
      fs::remove_all(folder_.path() + "/" + name);
    Open(options);
    std::mt19937_64 random(merge_increments);
    for (uint64_t step = 1; step <= 40; ++step) {
      const RowChoice choice{
          .rows = 500, .bytes = 200, .version = step, .share = step % 7 == 1 ? 1.0 : 0.03};
      Entries changed = RowEntries(choice, &random);
      changed[{kRateSpace, step}] = std::string(8, static_cast<char>(step));
      Publish(step, changed);
      if (step % 3 == 0) {
        const uint64_t gone = steps_.begin()->first;
        ASSERT_TRUE(store_->Delete(gone).ok());
        EXPECT_FALSE(store_->Delete(gone).ok());
        steps_.erase(gone);
      }
      if (step % 8 == 0) Open(options);
      if (step % 4 == 0) {
        // Back to an older one, whose newer ones go first; with and without having read it.
        const uint64_t back =
            std::next(steps_.begin(), static_cast<int64_t>(steps_.size() / 2))->first;
        while (steps_.rbegin()->first > back) {
          ASSERT_TRUE(store_->Delete(steps_.rbegin()->first).ok());
          steps_.erase(std::prev(steps_.end()));
        }
        state_ = steps_[back];
        if (step % 16 == 0) {
          CheckAll();
        }
        const Status reset = store_->Reset(back);
        ASSERT_TRUE(reset.ok()) << reset.message();
      }
      if (step % 5 == 0) CheckAll();
    }
    store_->WaitForMerge();
    CheckAll();
  }
}

// Goal: entries that go are there no more, from the snapshot on that they were removed for, whether
// a merge, a restart, a reset, a failed publish or an increment of all rows comes between.
TEST_F(SnapshotStoreTest, EntriesGo) {
  std::mt19937_64 random(3);
  const RocksSnapshotOptions options{.file_bytes = 4000, .merge_ratio = 0.5, .merge_increments = 5};
  Open(options);
  const auto draw = [&]() -> SnapshotKey {
    switch (random() % 4) {
      case 0:
        return {kFirstWaitingSpace + 1, (random() % 40) << 58};
      case 1:
        return {2, random() % 40 * 0x9E3779B97F4A7C15ull};
      case 2:
        return {kRateSpace, 1 + random() % 9};
      default:
        return {0, random() % 300};
    }
  };
  for (uint64_t step = 1; step <= 60; ++step) {
    const bool all = random() % 8 == 0;
    std::map<SnapshotKey, std::optional<std::string>> changes;
    if (all) {
      for (const auto& [key, value] : state_) {
        if (key.space < kFirstWaitingSpace) changes[key] = value;
      }
    }
    for (uint64_t i = random() % 60; i > 0; --i) {
      const SnapshotKey key = draw();
      const bool goes = random() % 2 == 0 && key.space < kFirstStepSpace;
      changes[key] = goes ? std::nullopt
                          : std::optional(std::string(8, static_cast<char>('a' + random() % 26)));
    }
    ASSERT_TRUE(store_->Begin().ok());
    for (const auto& [key, value] : changes) {
      const Status taken = value.has_value()
                               ? store_->Put(key.space, key.id, value->data(), value->size())
                               : store_->Remove(key.space, key.id);
      ASSERT_TRUE(taken.ok()) << taken.message();
    }
    if (random() % 6 == 0) {
      store_->Abandon();
      continue;
    }
    const Status published = store_->Publish(TestInfo(step));
    ASSERT_TRUE(published.ok()) << published.message();
    for (const auto& [key, value] : changes) {
      if (value.has_value()) {
        state_[key] = *value;
      } else {
        state_.erase(key);
      }
    }
    steps_[step] = state_;
    CheckAll();
    while (steps_.size() > 3) {
      ASSERT_TRUE(store_->Delete(steps_.begin()->first).ok());
      steps_.erase(steps_.begin());
    }
    if (random() % 5 != 0) continue;
    if (random() % 2 == 0) Open(options);
    const auto back = std::next(steps_.begin(), static_cast<ptrdiff_t>(random() % steps_.size()));
    ASSERT_TRUE(store_->Reset(back->first).ok());
    state_ = back->second;
  }
}

TEST_F(SnapshotStoreTest, ResetToNothing) {
  Open();
  Publish(1, RowEntries({.rows = 10, .version = 1}));
  ASSERT_TRUE(store_->Reset(0).ok());
  state_.clear();
  Publish(2, RowEntries({.rows = 5, .version = 2}));
  CheckAll();
  EXPECT_FALSE(store_->Reset(9).ok());
}

TEST_F(SnapshotStoreTest, LeftoversOfADeadProcessGo) {
  Open();
  Publish(1, RowEntries({.rows = 10, .version = 1}));
  for (const char* name : {"tmp-step-2", "tmp-step-2.tmp", "tmp-increment", "gone-1"}) {
    fs::create_directories(folder_.path() + "/" + name);
    std::ofstream(folder_.path() + "/" + std::string(name) + "/000001.sst") << "half";
  }
  for (const char* name : {"lock", "boot"}) std::ofstream(folder_.path() + "/" + name) << "1";
  Open();
  CheckAll();
  EXPECT_EQ(FileNames(folder_.path()),
            (std::vector<std::string>{"boot", "live", "lock", "step-1"}));
}

TEST_F(SnapshotStoreTest, MisuseIsAnErrorAndPasses) {
  Open();
  EXPECT_FALSE(store_->Put(1, 1, "x", 1).ok());
  EXPECT_FALSE(store_->Publish(TestInfo(1)).ok());
  ASSERT_TRUE(store_->Begin().ok());
  ASSERT_TRUE(store_->Put(1, 5, "x", 1).ok());
  EXPECT_FALSE(store_->Put(1, 5, "x", 1).ok());
  EXPECT_FALSE(store_->Put(1, 6, "x", 1).ok());  // sticky
  EXPECT_FALSE(store_->Publish(TestInfo(1)).ok());
  store_->Abandon();
  ASSERT_TRUE(store_->Begin().ok());
  ASSERT_TRUE(store_->Put(1, 5, "x", 1).ok());
  EXPECT_FALSE(store_->Put(1, 6, "xy", 2).ok());  // one size in a space
  store_->Abandon();
  EXPECT_TRUE(store_->Published().empty());
  Publish(1, RowEntries({.rows = 10, .version = 1}));
  ASSERT_TRUE(store_->Begin().ok());
  EXPECT_FALSE(store_->Publish(TestInfo(1)).ok());  // there is one
  store_->Abandon();
  CheckAll();
}

TEST_F(SnapshotStoreTest, AFolderThatCanNotBeWritten) {
  // Not even root can make a folder there.
  const auto opened = OpenRocksSnapshots("/proc/shard-0-of-1");
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.status().code(), Code::kInvalid);
  EXPECT_NE(opened.status().message().find("/proc/shard-0-of-1"), std::string::npos);
}

TEST_F(SnapshotStoreTest, Quarantine) {
  Open();
  Publish(1, RowEntries({.rows = 10, .version = 1}));
  Publish(2, RowEntries({.rows = 10, .version = 2}));
  ASSERT_TRUE(store_->Quarantine(2).ok());
  EXPECT_FALSE(store_->Quarantine(2).ok());
  steps_.erase(2);
  CheckAll();
  EXPECT_TRUE(fs::exists(folder_.path() + "/damaged-step-2"));
  Open();
  CheckAll();
}

// Goal: a reader works beside a store, and leaves no trace.
TEST_F(SnapshotStoreTest, ReaderLeavesNoTrace) {
  Open();
  Publish(1, RowEntries({.rows = 100, .version = 1}));
  std::vector<std::string> before;
  for (const auto& entry : fs::recursive_directory_iterator(folder_.path()))
    before.push_back(entry.path().string());
  auto reader = OpenRocksSnapshotReader(folder_.path());
  ASSERT_TRUE(reader.ok());
  EXPECT_EQ(reader.value()->Published(), std::vector<uint64_t>{1});
  EXPECT_TRUE(reader.value()->VerifyFiles(1).ok());
  Entries found;
  ASSERT_TRUE(ReadEntries(*reader.value(), 1, &found).ok());
  EXPECT_EQ(found, steps_[1]);
  std::vector<std::string> after;
  for (const auto& entry : fs::recursive_directory_iterator(folder_.path()))
    after.push_back(entry.path().string());
  EXPECT_EQ(before, after);
  EXPECT_EQ(OpenRocksSnapshotReader(folder_.path() + "/none").status().code(), Code::kInvalid);
}

/// Bytes that this process has handed to write() so far, whoever did it.
uint64_t BytesWritten() {
  std::ifstream in("/proc/self/io");
  std::string word;
  uint64_t value = 0;
  while (in >> word >> value)
    if (word == "wchar:") return value;
  ADD_FAILURE() << "no wchar in /proc/self/io";
  return 0;
}

// Goal: an increment of 1% of the rows costs less than 3% of a full one, merges included; the disk
// does not fill when every increment has all rows.
TEST_F(SnapshotStoreTest, BytesOfIncrements) {
  constexpr uint64_t kRows = 20000;
  Open();
  const uint64_t start = BytesWritten();
  Publish(1, RowEntries({.rows = kRows, .bytes = 1000, .version = 1}));
  const uint64_t full = BytesWritten() - start;
  EXPECT_LT(full, kRows * 1000 * 11 / 10);

  std::mt19937_64 random(1);
  constexpr uint64_t kIncrements = 220;  // two merges
  const uint64_t before = BytesWritten();
  uint64_t merged = 0;
  for (uint64_t step = 2; step < 2 + kIncrements; ++step) {
    Publish(step,
            RowEntries({.rows = kRows, .bytes = 1000, .version = step, .share = 0.01}, &random));
    ASSERT_TRUE(store_->Delete(step - 1).ok());
    steps_.erase(step - 1);
    store_->WaitForMerge();
    merged += store_->last_publish().merged_bytes;
  }
  const double share =
      static_cast<double>(BytesWritten() - before) / kIncrements / static_cast<double>(full);
  RecordProperty("increment_share_percent", std::to_string(100 * share));
  std::printf("an increment of 1%% of the rows writes %.2f%% of a full one, merges included\n",
              100 * share);
  EXPECT_LT(share, 0.03);
  EXPECT_GT(merged, full);
  CheckAll();
}

TEST_F(SnapshotStoreTest, FullIncrementsDoNotFillTheDisk) {
  constexpr uint64_t kRows = 5000;
  for (const double share : {1.0, 0.999}) {  // replaced as a whole, and merged
    Open();
    ASSERT_TRUE(store_->Reset(0).ok());
    std::mt19937_64 random(1);
    uint64_t most = 0;
    const uint64_t before = BytesWritten();
    for (uint64_t step = 1; step <= 12; ++step) {
      Publish(step,
              RowEntries(
                  {.rows = kRows, .bytes = 1000, .version = step, .share = step == 1 ? 1 : share},
                  &random));
      if (step > 2) {
        ASSERT_TRUE(store_->Delete(step - 2).ok());
      }
      store_->WaitForMerge();
      most = std::max(most, DiskBytes(folder_.path()));
    }
    const double written = static_cast<double>(BytesWritten() - before) / (12 * kRows * 1000);
    std::printf("increments of %.1f%%: %.2f times written, at most %.2f states on disk, 2 kept\n",
                100 * share, written, static_cast<double>(most) / (kRows * 1000));
    EXPECT_LT(written, share == 1 ? 1.1 : 2.2);
    EXPECT_LT(static_cast<double>(most) / (kRows * 1000), share == 1 ? 2.2 : 5.5);
    ASSERT_TRUE(store_->Delete(11).ok());
    ASSERT_TRUE(store_->Delete(12).ok());
    steps_.clear();
    state_.clear();
  }
}

}  // namespace
}  // namespace mf
