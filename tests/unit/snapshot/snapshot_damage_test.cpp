// Goal: of a snapshot with a flipped bit, a cut, a longer, a missing or an extra file, either
// everything is read as it was published or reading is refused with the name of a file of it; never
// a mix, never a crash. A check of all files finds every one of them.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "common/base/digest.h"
#include "common/run/versions.h"
#include "pserver/snapshot/snapshot_digest.h"
#include "pserver/snapshot/snapshot_files.h"
#include "pserver/snapshot/snapshot_rocksdb.h"
#include "tests/support/snapshots/snapshot_model.h"

namespace mf {
namespace {

namespace fs = std::filesystem;

std::string Load(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void Save(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

class SnapshotDamageTest : public ::testing::Test {
 protected:
  void SetUp() override {
    {
      // An increment on a base: a reader that lost one of them would show a mix.
      auto store = OpenRocksSnapshots(folder_.path()).value();
      state_ = RowEntries({.rows = 800, .bytes = 400, .version = 1});
      ASSERT_TRUE(PublishEntries(*store, 1, state_).ok());
      std::mt19937_64 random(2);
      Entries changed =
          RowEntries({.rows = 800, .bytes = 400, .version = 2, .share = 0.3}, &random);
      changed[{kRateSpace, 2}] = "12345678";
      ASSERT_TRUE(PublishEntries(*store, 2, changed).ok());
      for (const auto& [key, value] : changed) state_[key] = value;
      ASSERT_TRUE(store->Delete(1).ok());
    }
    fs::remove_all(folder_.path() + "/live");  // so that files have one name each
    reader_ = OpenRocksSnapshotReader(folder_.path()).value();
    step_ = StepPath(folder_.path(), 2);
    ASSERT_GE(FileNames(step_).size(), 6U);
    Entries found;
    ASSERT_TRUE(ReadEntries(*reader_, 2, &found).ok());
    ASSERT_EQ(found, state_);
  }

  /// Returns whether the damage was noticed by Read().
  bool Check(const std::string& name, const std::string& what) {
    EXPECT_FALSE(reader_->VerifyFiles(2).ok()) << name << ": " << what;
    EXPECT_NE(reader_->VerifyFiles(2).message().find(name), std::string::npos)
        << what << ": " << reader_->VerifyFiles(2).message();
    Entries found;
    const auto read = ReadEntries(*reader_, 2, &found);
    if (read.ok()) {
      EXPECT_TRUE(found == state_) << name << ": " << what;
      return false;
    }
    EXPECT_EQ(read.status().code(), Code::kDamaged);
    EXPECT_NE(read.status().message().find(name), std::string::npos)
        << what << ": " << read.status().message();
    EXPECT_EQ(read.status().message().find('\n'), std::string::npos);
    // What was seen before the error is right.
    for (const auto& [key, value] : found) {
      const auto wanted = state_.find(key);
      EXPECT_TRUE(wanted != state_.end() && wanted->second == value) << name << ": " << what;
    }
    return true;
  }

  TemporaryFolder folder_{TemporaryFolder::Where::kMemory};
  std::unique_ptr<SnapshotReader> reader_;
  std::string step_;
  Entries state_;
};

TEST_F(SnapshotDamageTest, FlippedBits) {
  std::mt19937_64 random(3);
  for (const std::string& name : FileNames(step_)) {
    const std::string path = step_ + "/" + name, bytes = Load(path);
    int noticed = 0, trials = 0;
    const auto flip = [&](size_t at) {
      std::string bad = bytes;
      bad[at] = static_cast<char>(bad[at] ^ (1 << random() % 8));
      Save(path, bad);
      noticed += Check(name, "byte " + std::to_string(at));
      ++trials;
    };
    // The ends, where headers and footers are, and anywhere.
    for (size_t i = 0; i < 60 && i < bytes.size(); ++i) flip(bytes.size() - 1 - i);
    for (size_t i = 0; i < 10 && i < bytes.size(); ++i) flip(i);
    for (int i = 0; i < 60 && !bytes.empty(); ++i) flip(random() % bytes.size());
    Save(path, bytes);
    EXPECT_EQ(noticed, trials) << name;
  }
  Entries found;
  ASSERT_TRUE(ReadEntries(*reader_, 2, &found).ok());
}

TEST_F(SnapshotDamageTest, CutsAndMore) {
  std::mt19937_64 random(4);
  for (const std::string& name : FileNames(step_)) {
    const std::string path = step_ + "/" + name, bytes = Load(path);
    for (const size_t size :
         {size_t{0}, bytes.size() / 2, bytes.size() - std::min<size_t>(1, bytes.size())}) {
      if (size == bytes.size()) continue;
      Save(path, bytes.substr(0, size));
      EXPECT_TRUE(Check(name, "cut to " + std::to_string(size)));
    }
    Save(path, bytes + std::string(1, '\0'));
    EXPECT_TRUE(Check(name, "longer"));
    std::string zeros = bytes;
    const size_t at = random() % (bytes.size() + 1);
    for (size_t i = at; i < std::min(bytes.size(), at + 4096); ++i) zeros[i] = 0;
    if (zeros != bytes) {
      Save(path, zeros);
      EXPECT_TRUE(Check(name, "zeros at " + std::to_string(at)));
    }
    fs::remove(path);
    EXPECT_TRUE(Check(name, "missing"));
    Save(path, bytes);
  }
  Save(step_ + "/000099.log", "what would be replayed");
  EXPECT_TRUE(Check("000099.log", "extra"));
}

// Goal: tables exchanged for each other, whole and with valid checksums of their own, are noticed.
TEST_F(SnapshotDamageTest, ExchangedTables) {
  std::vector<std::string> tables;
  for (const std::string& name : FileNames(step_))
    if (name.ends_with(".sst")) tables.push_back(name);
  ASSERT_EQ(tables.size(), 2U);
  const std::string first = step_ + "/" + tables[0], second = step_ + "/" + tables[1];
  fs::rename(first, step_ + "/swap");
  fs::rename(second, first);
  fs::rename(step_ + "/swap", second);
  EXPECT_TRUE(Check(tables[0], "exchanged"));
}

TEST_F(SnapshotDamageTest, ADamagedOneCarriesNoIncrement) {
  auto store = OpenRocksSnapshots(folder_.path()).value();
  const std::string path = step_ + "/DIGEST", bytes = Load(path);
  Save(path, bytes.substr(0, bytes.size() / 2));
  EXPECT_TRUE(store->Reset(2).ok());
  EXPECT_FALSE(store->Begin().ok());
  ASSERT_TRUE(store->Quarantine(2).ok());
  ASSERT_TRUE(store->Reset(0).ok());
  ASSERT_TRUE(PublishEntries(*store, 2, state_).ok());
  Entries found;
  ASSERT_TRUE(ReadEntries(*store, 2, &found).ok());
  EXPECT_EQ(found, state_);
}

// Goal: a whole snapshot of another format is refused with one line that says what to do, by a
// server before it listens, and is no damage that would be set aside.
TEST_F(SnapshotDamageTest, AnotherFormatIsRefused) {
  const std::string path = step_ + "/" + kDigestName;
  nlohmann::json root = nlohmann::json::parse(Load(path));
  root.erase("sha256");
  EXPECT_EQ(root["description"], TestInfo(2).description);
  root["config"] = "{}";
  root.erase("description");
  // Nothing beside it is touched, as a start does with what its own version left unfinished.
  fs::create_directories(folder_.path() + "/tmp-step-3");
  fs::create_directories(folder_.path() + "/live");
  for (const uint64_t format : {1, 3}) {
    root.erase("sha256");
    root["format"] = format;
    root["sha256"] = Sha256Hex(root.dump());
    Save(path, root.dump(1) + "\n");
    const std::string wanted = CheckVersion(kSnapshotFormat, format, path).message();
    EXPECT_EQ(reader_->Summary(2).status().code(), Code::kInvalid);
    EXPECT_EQ(reader_->Summary(2).status().message(), wanted);
    EXPECT_EQ(reader_->VerifyFiles(2).message(), wanted);
    const auto opened = OpenRocksSnapshots(folder_.path());
    EXPECT_EQ(opened.status().code(), Code::kInvalid);
    EXPECT_EQ(opened.status().message(), wanted);
    EXPECT_EQ(reader_->Published(), std::vector<uint64_t>{2});
    EXPECT_TRUE(fs::exists(folder_.path() + "/tmp-step-3"));
    EXPECT_TRUE(fs::exists(folder_.path() + "/live"));
  }
}

// Goal: a DIGEST of brackets in brackets is refused and does not exhaust the stack.
TEST_F(SnapshotDamageTest, ADeepDigest) {
  constexpr size_t kDepth = 1'000'000;
  const std::string path = step_ + "/" + kDigestName;
  for (const std::string& text :
       {"{\"sha256\":\"\",\"files\":" + std::string(kDepth, '[') + std::string(kDepth, ']') + "}",
        std::string(kDepth, '[')}) {
    Save(path, text);
    EXPECT_EQ(reader_->Summary(2).status().code(), Code::kDamaged);
  }
}

}  // namespace
}  // namespace mf
