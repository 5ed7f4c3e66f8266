// Goal: snapshots cut anew for another number of servers hold the same entries as if that number
// had written them; sources that do not belong together are refused, and nothing half-done is ever
// used. And what `pserver inspect` says of them.
#include "pserver/offline/reshard.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "pserver/offline/inspect.h"
#include "pserver/shard/data_directory.h"
#include "pserver/snapshot/snapshot_files.h"
#include "pserver/snapshot/snapshot_rocksdb.h"
#include "pserver/table/layout.h"
#include "pserver/table/optimizer.h"
#include "tests/support/snapshots/shard_snapshots.h"
#include "tests/support/snapshots/snapshot_model.h"
#include "worker/config/tensors.h"

namespace mf {
namespace {

namespace fs = std::filesystem;

Result<ReshardReport> TryReshard(const std::string& from, const std::string& to, uint32_t shards,
                                 uint64_t step = 0) {
  return Reshard({.from = from, .to = to, .shards = shards, .step = step},
                 [](uint64_t done, uint64_t all) { EXPECT_LE(done, all); });
}

void CheckShards(const std::string& dir, const RunDescription& run, uint32_t shards,
                 uint64_t step) {
  for (uint32_t shard = 0; shard < shards; ++shard) {
    const auto reader = OpenRocksSnapshotReader(FolderOf(dir, shard, shards)).value();
    EXPECT_EQ(reader->Published(), std::vector<uint64_t>{step});
    Entries found;
    const auto info = ReadEntries(*reader, step, &found);
    ASSERT_TRUE(info.ok()) << info.status().message();
    EXPECT_EQ(info.value().shard, shard);
    EXPECT_EQ(info.value().shards, shards);
    EXPECT_EQ(info.value().run_id, run.RunId());
    EXPECT_EQ(info.value().applied, step);
    EXPECT_TRUE(found == EntriesOf(run, shard, shards, step)) << shard << " of " << shards;
  }
}

TEST(ReshardTest, AllPairs) {
  for (const std::string optimizer : {"adam", "sgd", "adagrad", "mixed"}) {
    const RunDescription run = SmallRun(optimizer);
    TemporaryFolder folder(TemporaryFolder::Where::kMemory);
    for (uint32_t from = 1; from <= 4; ++from) {
      const std::string source = folder.path() + "/from" + std::to_string(from);
      WriteShards(source, run, from, 3);
      for (uint32_t to = 1; to <= 4; ++to) {
        const std::string target = source + "to" + std::to_string(to);
        const auto report = TryReshard(source, target, to);
        ASSERT_TRUE(report.ok()) << report.status().message();
        EXPECT_EQ(report.value().from_shards, from);
        EXPECT_EQ(FileNames(target).size(), to + 1) << "and the description";
        CheckShards(target, run, to, 3);
      }
    }
  }
}

TEST(ReshardTest, StepsAndAServerAfterwards) {
  const RunDescription run = SmallRun("adam");
  TemporaryFolder folder(TemporaryFolder::Where::kMemory);
  const std::string from = folder.path() + "/from";
  WriteShards(from, run, 2, 3);
  WriteShards(from, run, 2, 5);
  // Shard 1 alone has step 7: the newest that both have is 5.
  ASSERT_TRUE(
      PublishInto(FolderOf(from, 1, 2), InfoOf(run, 1, 2, 7), EntriesOf(run, 1, 2, 7)).ok());
  ASSERT_TRUE(TryReshard(from, folder.path() + "/newest", 3).ok());
  CheckShards(folder.path() + "/newest", run, 3, 5);
  ASSERT_TRUE(TryReshard(from, folder.path() + "/older", 1, 3).ok());
  CheckShards(folder.path() + "/older", run, 1, 3);
  EXPECT_EQ(TryReshard(from, folder.path() + "/none", 1, 7).status().code(), Code::kInvalid);

  // A server opens the folder as its own.
  const auto data = DataDirectory::Open(folder.path() + "/newest", 2, 3);
  ASSERT_TRUE(data.ok());
  const auto store = OpenRocksSnapshots(data.value()->path());
  ASSERT_TRUE(store.ok());
  ASSERT_TRUE(store.value()->Reset(5).ok());
}

TEST(ReshardTest, Refusals) {
  const RunDescription run = SmallRun("adam");
  TemporaryFolder folder(TemporaryFolder::Where::kMemory);
  const std::string from = folder.path() + "/from", to = folder.path() + "/to";
  WriteShards(from, run, 2, 3);
  const auto refused = [&](const std::string& what, Code code) {
    const auto report = TryReshard(from, to, 3);
    ASSERT_FALSE(report.ok()) << what;
    EXPECT_EQ(report.status().code(), code) << report.status().message();
    EXPECT_NE(report.status().message().find(what), std::string::npos) << report.status().message();
    EXPECT_EQ(report.status().message().find('\n'), std::string::npos);
    EXPECT_FALSE(FileExists(to + "/shard-0-of-3"));
  };
  EXPECT_EQ(TryReshard(folder.path() + "/none", to, 1).status().code(), Code::kInvalid);
  EXPECT_EQ(TryReshard(from, to, 5).status().code(), Code::kInvalid);  // 4 blocks
  EXPECT_EQ(TryReshard(from, from, 1).status().code(), Code::kInvalid);

  // What an earlier one left.
  fs::create_directories(to + "/tmp-reshard/shard-0-of-3");
  refused("tmp-reshard", Code::kInvalid);
  EXPECT_EQ(OpenRocksSnapshots(to + "/shard-1-of-3").status().code(), Code::kInvalid);
  fs::remove_all(to);

  {
    const auto data = DataDirectory::Open(from, 1, 2);
    ASSERT_TRUE(data.ok());
    refused("a server runs", Code::kFailed);
  }
  fs::rename(from + "/shard-1-of-2", folder.path() + "/away");
  refused("only 1 of the shards of 2", Code::kInvalid);

  const auto with_other_shard = [&](const SnapshotInfo& info, const Entries& entries,
                                    const std::string& what) {
    fs::remove_all(from + "/shard-1-of-2");
    ASSERT_TRUE(PublishInto(FolderOf(from, 1, 2), info, entries).ok());
    refused(what, Code::kFailed);
  };
  const Entries good = EntriesOf(run, 1, 2, 3);
  SnapshotInfo info = InfoOf(run, 1, 2, 3);
  info.run_id = "0";
  with_other_shard(info, good, "disagree about the run");
  info = InfoOf(run, 1, 2, 3);
  Entries bad = good;
  bad.erase(std::next(bad.begin(), 5));
  with_other_shard(info, bad, "disagree about entry");
  bad = good;
  std::next(bad.begin(), 5)->second[0] ^= 1;  // updated_at
  with_other_shard(info, bad, "disagree about entry");
  bad = good;
  bad[{kRateSpace, 2}][0] ^= 1;
  with_other_shard(info, bad, "disagree about entry 2 of rates");
  info.shard = 0;
  with_other_shard(info, good, "is of shard 0 of 2");
  EXPECT_TRUE(FileNames(to).empty());
}

TEST(InspectTest, TableAndDamage) {
  const RunDescription run = SmallRun("adam");
  TemporaryFolder folder(TemporaryFolder::Where::kMemory);
  std::ostringstream none;
  EXPECT_EQ(Inspect(folder.path() + "/none", false, none).code(), Code::kInvalid);
  EXPECT_EQ(Inspect(folder.path(), false, none).code(), Code::kInvalid);

  WriteShards(folder.path(), run, 2, 3);
  WriteShards(folder.path(), run, 2, 5);
  ASSERT_TRUE(
      PublishInto(FolderOf(folder.path(), 1, 2), InfoOf(run, 1, 2, 7), EntriesOf(run, 1, 2, 7))
          .ok());
  const auto look = [&](const std::string& dir, bool verify, Code code) {
    std::ostringstream out;
    const Status status = Inspect(dir, verify, out);
    EXPECT_EQ(status.code(), code) << status.message();
    return out.str() + status.message();
  };
  const std::string all = look(folder.path(), true, Code::kOk);
  EXPECT_NE(all.find("common to all 2 of 2 shards: 3 5\n"), std::string::npos) << all;
  EXPECT_NE(all.find("embed.weight"), std::string::npos) << all;
  EXPECT_NE(all.find("verified"), std::string::npos) << all;
  const std::string one = look(FolderOf(folder.path(), 1, 2), false, Code::kOk);
  EXPECT_NE(one.find("common to the 1 of 2 shards: 3 5 7\n"), std::string::npos) << one;

  const std::string step = StepPath(FolderOf(folder.path(), 1, 2), 7);
  for (const std::string& name : FileNames(step)) {
    if (!name.ends_with(".sst")) continue;
    std::fstream file(step + "/" + name, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(1000);
    file.put('!');
    file.close();
    EXPECT_NE(look(folder.path(), true, Code::kDamaged).find(name), std::string::npos);
    break;
  }
  look(folder.path(), false, Code::kOk);  // says nothing of what it has not read
}

}  // namespace
}  // namespace mf
