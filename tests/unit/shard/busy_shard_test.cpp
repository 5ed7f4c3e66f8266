// Goal: whatever a server is at, it says how it is: while it waits for a disk, loads a snapshot or
// computes, hello, status and renewals are answered, and nothing else is; a disk that hangs holds
// up snapshots and nothing else.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <set>
#include <thread>

#include "common/base/mutex.h"
#include "pserver/shard/run_host.h"
#include "pserver/snapshot/disk_thread.h"
#include "pserver/snapshot/snapshot_rocksdb.h"
#include "tests/support/shard_harness.h"
#include "worker/config/tensors.h"

namespace mf {
namespace {

/// The store of a disk that does not answer while the gate is closed.
class GatedStore final : public SnapshotStore {
 public:
  explicit GatedStore(std::unique_ptr<SnapshotStore> store) : store_(std::move(store)) {}

  void Close() { Set(true); }
  void Open() { Set(false); }

  std::vector<uint64_t> Published() const override { return store_->Published(); }
  Result<SnapshotSummary> Summary(uint64_t step) const override { return Gate().Summary(step); }
  Result<SnapshotInfo> Info(uint64_t step) const override { return Gate().Info(step); }
  Status VerifyFiles(uint64_t step) const override { return Gate().VerifyFiles(step); }
  Result<std::unique_ptr<SnapshotCursor>> Open(uint64_t step) const override {
    return Gate().Open(step);
  }
  Result<SnapshotInfo> Read(uint64_t step, const SnapshotVisit& visit) override {
    // It stops half-way, too.
    uint64_t entries = 0;
    return Gate().Read(step, [&](uint32_t space, uint64_t id, const std::byte* data, size_t bytes) {
      if (++entries % 64 == 0) Gate();
      return visit(space, id, data, bytes);
    });
  }
  Status Begin() override { return Gate().Begin(); }
  Status Put(uint32_t space, uint64_t id, const void* data, size_t bytes) override {
    return Gate().Put(space, id, data, bytes);
  }
  Status Remove(uint32_t space, uint64_t id) override { return Gate().Remove(space, id); }
  Status Publish(const SnapshotInfo& info) override { return Gate().Publish(info); }
  void Abandon() override { Gate().Abandon(); }
  Status Delete(uint64_t step) override { return Gate().Delete(step); }
  Status Reset(uint64_t step) override { return Gate().Reset(step); }
  Status Quarantine(uint64_t step) override { return Gate().Quarantine(step); }
  PublishStats last_publish() const override { return store_->last_publish(); }
  void WaitForMerge() override { store_->WaitForMerge(); }

 private:
  void Set(bool closed) {
    MutexLock lock(mutex_);
    closed_ = closed;
    changed_.NotifyAll();
  }
  SnapshotStore& Gate() const {
    MutexLock lock(mutex_);
    while (closed_) changed_.Wait(mutex_);
    return *store_;
  }

  const std::unique_ptr<SnapshotStore> store_;
  mutable Mutex mutex_;
  mutable ConditionVariable changed_;
  bool closed_ MF_GUARDED_BY(mutex_) = false;
};

class BusyShardTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "busy_shard_test-" + std::to_string(getpid());
    std::filesystem::remove_all(folder_);
    auto store = OpenRocksSnapshots(folder_);
    ASSERT_TRUE(store.ok()) << store.status().message();
    store_ = std::make_unique<GatedStore>(std::move(store).value());
    writer_ = MakeThreadedSnapshotWriter(*store_);
  }
  void TearDown() override {
    disk_.reset();
    writer_.reset();
    store_.reset();
    std::filesystem::remove_all(folder_);
  }
  ShardHarness::Options Options() {
    return {.store = store_.get(), .writer = writer_.get(), .disk = disk_.get()};
  }
  static void Step(ShardHarness& server, const SnapshotPlan& snapshots) {
    const uint64_t step = server.open().step;
    for (uint32_t i = 0; i < 3; ++i) server.MicroBatch(step, i);
    ASSERT_EQ(server.Send(server.Make(PrepareRequest{server.open()})).code, Code::kOk);
    ASSERT_EQ(server
                  .Send(server.Make(ApplyRequest{
                      .at = server.open(), .lr = 1e-2, .scale = 1, .snapshots = snapshots}))
                  .code,
              Code::kOk);
  }
  static void FinishSnapshot(ShardHarness& server) {
    for (int i = 0; server.shard().writing_snapshot(); ++i) {
      ASSERT_LT(i, 20'000);
      if (!server.shard().Work(0)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  std::string folder_;
  std::unique_ptr<GatedStore> store_;
  std::unique_ptr<SnapshotWriter> writer_;
  std::unique_ptr<DiskThread> disk_ = std::make_unique<DiskThread>();
};

TEST_F(BusyShardTest, SaysWhatItLoads) {
  const Config config = ShardConfig();
  std::vector<uint32_t> expected;
  {
    ShardHarness server(config, Options());
    for (int i = 0; i < 3; ++i) Step(server, {.take = i == 2});
    FinishSnapshot(server);
    expected = server.State();
  }
  ShardHarness::Options options = Options();
  options.recover = false;
  ShardHarness server(config, options);
  server.session = As<HelloReply>(server.Send(server.Hello())).session;
  std::set<std::string> doing;
  int greeted = 0;
  server.pool().SetYield([&] {
    const Reply status = server.Send(server.Make(StatusRequest{}));
    ASSERT_EQ(status.code, Code::kOk) << status.message;
    doing.insert(As<StatusReply>(status).state.doing);
    const Reply hello = server.Send(server.Hello());
    ASSERT_EQ(hello.code, Code::kOk) << hello.message;
    ++greeted;
    if (greeted == 3) store_->Open();
  });
  store_->Close();
  ASSERT_EQ(server.Send(server.Rollback(server.epoch, 3)).code, Code::kOk);
  EXPECT_GE(greeted, 3);
  EXPECT_TRUE(doing.contains("loading step 3: 0%")) << *doing.begin();
  server.pool().SetYield(nullptr);
  EXPECT_EQ(As<StatusReply>(server.Send(server.Make(StatusRequest{}))).state.doing, "");
  EXPECT_EQ(server.State(), expected);
  // It goes on.
  Step(server, {});
}

TEST_F(BusyShardTest, AHangingDiskHoldsUpSnapshotsOnly) {
  ShardHarness server(ShardConfig(), Options());
  ShardHarness undisturbed(ShardConfig());
  for (int i = 0; i < 2; ++i) {
    Step(server, {.take = true});
    FinishSnapshot(server);
  }
  ASSERT_EQ(store_->Published(), (std::vector<uint64_t>{1, 2}));
  store_->Close();
  Step(server, {.take = true, .discard = {1}});
  for (int i = 0; i < 20; ++i) server.shard().Work(0);
  EXPECT_TRUE(server.shard().writing_snapshot());
  EXPECT_FALSE(disk_->idle());
  while (server.shard().snapshot_late_seconds() == 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  for (int i = 0; i < 3; ++i) Step(server, {.take = true, .discard = {1}});
  EXPECT_EQ(server.finished().step, 6u);
  // Nothing that was asked for is lost.
  store_->Open();
  disk_->Drain();
  FinishSnapshot(server);
  EXPECT_EQ(store_->Published(), (std::vector<uint64_t>{2, 3, 6}));
  EXPECT_EQ(server.shard().snapshot_late_seconds(), 0);
  for (int i = 0; i < 6; ++i) Step(undisturbed, {});
  EXPECT_EQ(server.State(), undisturbed.State());
}

// The host answers in the place of a run that is about to begin.
TEST_F(BusyShardTest, AnotherRunWaits) {
  ThreadPool pool(1);
  std::vector<Reply> replies;
  RunHost host({.shard = {.store = store_.get(), .writer = writer_.get()}}, pool,
               [&](const std::string&, const Reply& reply) { replies.push_back(reply); });
  const auto hello = [](uint64_t id, const std::string& data) {
    return Request{
        .id = id,
        .body = HelloRequest{.shards = 1, .description = DescribeRun(ShardConfig(), data).Json()}};
  };
  const auto ask = [&](const Request& request) {
    replies.clear();
    host.HandleMeanwhile("peer", request, 0);
    EXPECT_EQ(replies.size(), 1u);
    return replies.at(0);
  };
  const Request status{.id = 7, .body = StatusRequest{}};
  EXPECT_EQ(ask(hello(1, "a")).code, Code::kUnavailable);
  EXPECT_EQ(ask(status).code, Code::kUnavailable);
  host.Handle("peer", hello(2, "a"), 0);
  ASSERT_EQ(replies.back().code, Code::kOk) << replies.back().message;
  EXPECT_EQ(ask(hello(3, "a")).code, Code::kOk);
  EXPECT_EQ(ask(hello(4, "b")).code, Code::kUnavailable);
  EXPECT_EQ(ask(status).code, Code::kNotJoined);
  Request elsewhere = hello(5, "a");
  std::get<HelloRequest>(elsewhere.body).shard = 3;
  EXPECT_EQ(ask(elsewhere).code, Code::kInvalid);
}

}  // namespace
}  // namespace mf
