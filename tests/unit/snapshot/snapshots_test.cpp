// Goal: a snapshot holds the state of its step whatever is trained while it is written, and a
// server that goes back to it goes on bit by bit as if nothing had happened: real tables, real
// RocksDB, for tables kept directly and sparsely, all optimizers, both kinds of sparse update and
// both types of rows.
#include "pserver/snapshot/snapshots.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <random>
#include <thread>

#include "pserver/snapshot/snapshot_rocksdb.h"
#include "tests/support/shard_harness.h"
#include "tests/support/snapshots/snapshot_model.h"
#include "worker/config/tensors.h"

namespace mf {
namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr uint64_t kSteps = 12;
#else
constexpr uint64_t kSteps = 24;
#endif

class SnapshotsTest
    : public testing::TestWithParam<std::tuple<bool, OptimizerKind, SparseUpdate, RowType>> {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "snapshots_test-" + std::to_string(getpid());
    std::filesystem::remove_all(folder_);
    Open();
  }
  void TearDown() override {
    writer_.reset();
    store_.reset();
    std::filesystem::remove_all(folder_);
  }
  void Open() {
    writer_.reset();
    store_.reset();
    auto store = OpenRocksSnapshots(folder_);
    ASSERT_TRUE(store.ok()) << store.status().message();
    store_ = std::move(store).value();
    writer_ = MakeThreadedSnapshotWriter(*store_);
  }
  Config ConfigOf() const {
    Config config = ShardConfig();
    config.train.optimizer = std::get<1>(GetParam());
    config.train.sparse_update = std::get<2>(GetParam());
    config.model.table_dtype = std::get<3>(GetParam());
    return config;
  }
  ShardHarness::Options Options(bool with_store) const {
    ShardHarness::Options options;
    options.memory_bytes = std::get<0>(GetParam()) ? 0 : 1 << 30;
    options.threads = 2;
    if (with_store) {
      options.store = store_.get();
      options.writer = writer_.get();
    }
    return options;
  }
  /// A step whose end begins a snapshot.
  static void StepWithSnapshot(ShardHarness& server, uint64_t data, bool apply) {
    for (uint32_t i = 0; i < 3; ++i) server.MicroBatch(data, i);
    EXPECT_EQ(server.Send(server.Make(PrepareRequest{server.open()})).code, Code::kOk);
    const SnapshotPlan snapshots{.take = true};
    const RequestBody apply_it =
        ApplyRequest{.at = server.open(), .lr = 1e-2f, .scale = 0.5, .snapshots = snapshots};
    const RequestBody drop_it = DropRequest{.at = server.open(), .snapshots = snapshots};
    EXPECT_EQ(server.Send(server.Make(apply ? apply_it : drop_it)).code, Code::kOk);
  }
  static void FinishSnapshot(ShardHarness& server) {
    for (int i = 0; server.shard().writing_snapshot(); ++i) {
      ASSERT_LT(i, 20'000);
      if (!server.shard().Work(0)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  std::string folder_;
  std::unique_ptr<SnapshotStore> store_;
  std::unique_ptr<SnapshotWriter> writer_;
};

TEST_P(SnapshotsTest, HoldsItsStepWhileTrainingGoesOn) {
  std::mt19937_64 random(11);
  ShardHarness plain(ConfigOf(), Options(false));
  ShardHarness server(ConfigOf(), Options(true));
  std::vector<uint64_t> snapshots;
  std::vector<std::vector<uint32_t>> states = {plain.State()};  // after each step
  const auto dropped = [](uint64_t step) { return step % 7 == 3; };
  for (uint64_t step = 1; step <= kSteps; ++step) {
    plain.RunStep(step, 1e-2f, !dropped(step));
    states.push_back(plain.State());
    // Some are only begun: rows are saved aside by the steps that follow.
    if (random() % 2 == 0 && !server.shard().writing_snapshot()) {
      StepWithSnapshot(server, step, !dropped(step));
      snapshots.push_back(step);
    } else {
      server.RunStep(step, 1e-2f, !dropped(step));
    }
    if (random() % 3 == 0) FinishSnapshot(server);
    ASSERT_EQ(server.State(), states.back()) << "step " << step;
  }
  FinishSnapshot(server);
  ASSERT_GE(snapshots.size(), kSteps / 6);
  ASSERT_EQ(store_->Published(), snapshots);
  // Back to each, newest first as it deletes what is newer, and on again.
  std::reverse(snapshots.begin(), snapshots.end());
  for (const uint64_t step : snapshots) {
    ++server.epoch;
    const Reply back = server.Send(server.Rollback(server.epoch, step));
    ASSERT_EQ(back.code, Code::kOk) << back.message;
    ASSERT_EQ(server.State(), states[step]) << "step " << step;
    for (uint64_t next = step + 1; next <= kSteps; ++next) {
      server.RunStep(next, 1e-2f, !dropped(next));
      ASSERT_EQ(server.State(), states[next]) << next << " from " << step;
    }
  }
}

TEST_P(SnapshotsTest, ARestartedServerGoesOn) {
  ShardHarness plain(ConfigOf(), Options(false));
  for (uint64_t step = 1; step <= 9; ++step) plain.RunStep(step, 1e-2f, step != 5);
  {
    ShardHarness server(ConfigOf(), Options(true));
    for (uint64_t step = 1; step <= 6; ++step) {
      if (step % 3 == 0) {
        StepWithSnapshot(server, step, true);
        FinishSnapshot(server);
      } else {
        server.RunStep(step, 1e-2f, step != 5);
      }
    }
  }
  Open();
  ShardHarness::Options options = Options(true);
  options.recover = false;
  ShardHarness server(ConfigOf(), options);
  Request hello = server.Hello();
  std::get<HelloRequest>(hello.body).description = DescribeRun(ConfigOf(), "other data").Json();
  const Reply refused = server.Send(hello);
  EXPECT_EQ(refused.code, Code::kWrongRun);
  EXPECT_NE(refused.message.find("folder"), std::string::npos) << refused.message;
  const Reply joined = server.Send(server.Hello());
  ASSERT_EQ(joined.code, Code::kOk) << joined.message;
  EXPECT_EQ(As<HelloReply>(joined).state.snapshots.published, std::vector<uint64_t>({3, 6}));
  server.session = As<HelloReply>(joined).session;
  Request elsewhere = server.Rollback(server.epoch, 6);
  std::get<RollbackRequest>(elsewhere.body).incarnation = 12345;
  EXPECT_EQ(server.Send(elsewhere).code, Code::kWrongEpoch);
  EXPECT_EQ(server.Send(server.Rollback(server.epoch, 5)).code, Code::kUnavailable);
  ASSERT_EQ(server.Send(server.Rollback(server.epoch, 6)).code, Code::kOk);
  for (uint64_t step = 7; step <= 9; ++step) server.RunStep(step, 1e-2f);
  EXPECT_EQ(server.State(), plain.State());
}

// Goal: a damaged snapshot is refused by its file's name and set aside; the server takes an older
// one.
TEST_P(SnapshotsTest, ADamagedOneIsSetAside) {
  ShardHarness server(ConfigOf(), Options(true));
  std::vector<uint32_t> third;
  for (uint64_t step = 1; step <= 6; ++step) {
    if (step % 3 == 0) {
      StepWithSnapshot(server, step, true);
      FinishSnapshot(server);
    } else {
      server.RunStep(step, 1e-2f);
    }
    if (step == 3) third = server.State();
  }
  std::string damaged;
  for (const auto& entry : std::filesystem::directory_iterator(folder_ + "/step-6")) {
    if (entry.path().extension() != ".sst") continue;
    if (std::filesystem::exists(folder_ + "/step-3/" + entry.path().filename().string())) continue;
    damaged = entry.path().string();
    std::filesystem::resize_file(entry.path(), std::filesystem::file_size(entry.path()) / 2);
    break;
  }
  ASSERT_FALSE(damaged.empty());
  ++server.epoch;
  const Request back = server.Rollback(server.epoch, 6);
  const Reply refused = server.Send(back);
  EXPECT_EQ(refused.code, Code::kUnavailable);
  EXPECT_NE(refused.message.find(damaged.substr(folder_.size())), std::string::npos)
      << refused.message;
  EXPECT_EQ(server.Send(back).code, Code::kWrongEpoch) << "another try is another recovery";
  EXPECT_EQ(server.Send(server.Make(PrepareRequest{server.open()})).code, Code::kUnavailable);
  EXPECT_EQ(As<StatusReply>(server.Send(server.Make(StatusRequest{}))).state.snapshots.published,
            std::vector<uint64_t>({3}));
  ++server.epoch;
  ASSERT_EQ(server.Send(server.Rollback(server.epoch, 3)).code, Code::kOk);
  EXPECT_EQ(server.State(), third);
}

// Goal: a snapshot with a row of a step whose rate it has not is no state: catching that row up
// would read beyond the rates. Its checksums are right: another program wrote it.
TEST_P(SnapshotsTest, ARowOfAStepThatWasNeverAppliedIsDamage) {
  ShardHarness server(ConfigOf(), Options(true));
  StepWithSnapshot(server, 1, true);
  FinishSnapshot(server);
  Entries entries;
  auto info = ReadEntries(*store_, 1, &entries);
  ASSERT_TRUE(info.ok());
  for (const uint32_t updated_at : {2u, 300u, 0xFFFFFFFFu}) {
    info->step += 1;
    auto& row = entries.begin()->second;
    std::memcpy(row.data(), &updated_at, sizeof(updated_at));
    ASSERT_TRUE(store_->Begin().ok());
    for (const auto& [key, value] : entries) {
      ASSERT_TRUE(store_->Put(key.space, key.id, value.data(), value.size()).ok());
    }
    ASSERT_TRUE(store_->Publish(*info).ok());
    ++server.epoch;
    const Reply refused = server.Send(server.Rollback(server.epoch, info->step));
    EXPECT_EQ(refused.code, Code::kUnavailable);
    EXPECT_NE(refused.message.find("a row was updated in applied step " +
                                   std::to_string(updated_at) + " of 1"),
              std::string::npos)
        << refused.message;
    ++server.epoch;
    ASSERT_EQ(server.Send(server.Rollback(server.epoch, 1)).code, Code::kOk);
  }
}

// Goal: a server that is told to end publishes the state of the last finished step, whatever the
// open one has had so far, and takes part in no further one; a snapshot that is being written comes
// first.
TEST_P(SnapshotsTest, WhoIsToldToEndSavesFirst) {
  ShardHarness plain(ConfigOf(), Options(false));
  for (uint64_t step = 1; step <= 4; ++step) plain.RunStep(step, 1e-2f);
  {
    ShardHarness server(ConfigOf(), Options(true));
    for (uint64_t step = 1; step <= 4; ++step) {
      if (step == 3) {
        StepWithSnapshot(server, step, true);
      } else {
        server.RunStep(step, 1e-2f);
      }
    }
    for (uint32_t i = 0; i < 3; ++i) server.MicroBatch(5, i);
    server.shard().End(100);
    EXPECT_EQ(server.Send(server.Make(PrepareRequest{server.open()})).code, Code::kUnavailable);
    for (int i = 0; !server.shard().ReadyToEnd(100); ++i) {
      ASSERT_LT(i, 20'000);
      if (!server.shard().Work(100)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(store_->Published(), std::vector<uint64_t>({3, 4}));
  }
  Open();
  ShardHarness::Options options = Options(true);
  options.recover = false;
  ShardHarness server(ConfigOf(), options);
  server.session = As<HelloReply>(server.Send(server.Hello())).session;
  ASSERT_EQ(server.Send(server.Rollback(server.epoch, 4)).code, Code::kOk);
  EXPECT_EQ(server.State(), plain.State());
}

// Goal: a step that it has prepared may have ended elsewhere: it waits some seconds for the end.
TEST_P(SnapshotsTest, WhoIsToldToEndWaitsForAStepThatItHasPrepared) {
  for (const bool end_comes : {true, false}) {
    TearDown();
    Open();
    ShardHarness server(ConfigOf(), Options(true));
    server.RunStep(1, 1e-2f);
    for (uint32_t i = 0; i < 3; ++i) server.MicroBatch(2, i);
    EXPECT_EQ(server.Send(server.Make(PrepareRequest{server.open()})).code, Code::kOk);
    server.shard().End(100);
    EXPECT_FALSE(server.shard().ReadyToEnd(104.9));
    EXPECT_FALSE(server.shard().writing_snapshot());
    EXPECT_EQ(server.Send(server.Make(PrepareRequest{server.open()})).code, Code::kOk);
    if (end_comes) {
      EXPECT_EQ(server.End(1e-2f, true).code, Code::kOk);
    }
    for (int i = 0; !server.shard().ReadyToEnd(105.1); ++i) {
      ASSERT_LT(i, 20'000);
      if (!server.shard().Work(0)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(store_->Published(), std::vector<uint64_t>({end_comes ? 2u : 1u}));
  }
}

// Goal: a step is saved on request exactly while the tables are that step's.
TEST_P(SnapshotsTest, SavesTheFinishedStepOnRequest) {
  ShardHarness server(ConfigOf(), Options(true));
  const auto save = [&](uint64_t step) { return server.Send(server.Make(SaveRequest{step})); };
  EXPECT_EQ(save(0).code, Code::kInvalid) << "it is made from the seed";
  server.RunStep(1, 1e-2f);
  server.RunStep(2, 1e-2f);
  EXPECT_EQ(save(1).code, Code::kStale);
  EXPECT_EQ(save(3).code, Code::kNotYet);
  const auto snapshots = [](const Reply& reply) { return As<SaveReply>(reply).snapshots; };
  const std::vector<uint32_t> second = server.State();
  EXPECT_EQ(snapshots(save(2)), (SnapshotState{{}, 2}));
  server.RunStep(3, 1e-2f);  // meanwhile
  EXPECT_EQ(snapshots(save(2)), (SnapshotState{{}, 2})) << "it is on its way";
  EXPECT_EQ(snapshots(save(3)), (SnapshotState{{}, 2})) << "when that is done";
  FinishSnapshot(server);
  EXPECT_EQ(snapshots(save(2)), (SnapshotState{{2}, 0}));
  EXPECT_EQ(snapshots(save(3)), (SnapshotState{{2}, 3}));
  FinishSnapshot(server);
  EXPECT_EQ(snapshots(save(3)), (SnapshotState{{2, 3}, 0}));
  ++server.epoch;
  ASSERT_EQ(server.Send(server.Rollback(server.epoch, 2)).code, Code::kOk);
  EXPECT_EQ(server.State(), second);
}

INSTANTIATE_TEST_SUITE_P(
    All, SnapshotsTest,
    testing::Combine(testing::Bool(), testing::Values(OptimizerKind::kSgd, OptimizerKind::kAdam),
                     testing::Values(SparseUpdate::kExact, SparseUpdate::kLazy),
                     testing::Values(RowType::kF32, RowType::kBf16)));

INSTANTIATE_TEST_SUITE_P(Adagrad, SnapshotsTest,
                         testing::Combine(testing::Bool(), testing::Values(OptimizerKind::kAdagrad),
                                          testing::Values(SparseUpdate::kExact),
                                          testing::Values(RowType::kF32, RowType::kBf16)));

}  // namespace
}  // namespace mf
