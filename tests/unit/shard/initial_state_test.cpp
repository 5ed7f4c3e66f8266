// Goal: a run that begins with a state that is brought begins with it, as often as it goes back to
// its beginning, and not before it is there whole; parts may come twice, late, from two workers, or
// be nonsense.
#include "pserver/shard/initial_state.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <limits>

#include "pserver/snapshot/snapshot_rocksdb.h"
#include "pserver/snapshot/snapshot_writer.h"
#include "pserver/table/row_format.h"
#include "tests/support/shard_harness.h"
#include "worker/config/tensors.h"

namespace mf {
namespace {

constexpr uint64_t kAttempt = 77;

RunDescription RunThatBegins() {
  RunDescription run = DescribeRun(ShardConfig(), "");
  run.initial = "weights of digest 1234";
  return run;
}

/// Some rows of a tensor as a worker brings them: row r has r + column / 8, moments of 0.
Frames RowsOf(const TensorSpec& tensor, const std::vector<uint64_t>& rows, uint32_t updated = 0) {
  const auto columns = static_cast<size_t>(tensor.columns);
  const RowFormat format = RowFormat::Whole(tensor, 0);
  const size_t bytes = format.bytes();
  Buffer states(rows.size() * bytes);
  std::memset(states.data(), 0, states.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    std::byte* state = states.data() + i * bytes;
    std::memcpy(state, &updated, sizeof(updated));
    for (size_t c = 0; c < columns; ++c) {
      const float value = static_cast<float>(rows[i]) + static_cast<float>(c) / 8;
      std::memcpy(format.PlaneIn(state, 0) + c * sizeof(float), &value, sizeof(value));
    }
  }
  return {FrameOf(rows), Frame(states)};
}

Frames NoMoreRows(const std::vector<double>& rates = {}) {
  return {Frame(), Frame(), FrameOf(rates)};
}

class InitialStateTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "initial_state_test-" + std::to_string(getpid());
    std::filesystem::remove_all(folder_);
    Open();
  }
  void TearDown() override {
    state_.reset();
    writer_.reset();
    store_.reset();
    initial_.reset();
    std::filesystem::remove_all(folder_);
  }
  /// As a process that begins anew.
  void Open() {
    state_.reset();
    writer_.reset();
    store_.reset();
    initial_.reset();
    std::filesystem::create_directories(folder_);
    store_ = OpenRocksSnapshots(folder_ + "/shard").value();
    initial_ = OpenRocksSnapshots(folder_ + "/initial").value();
    writer_ = MakeThreadedSnapshotWriter(*store_);
    state_ = std::make_unique<InitialState>(
        *initial_, pool_, run_,
        SnapshotInfo{.step = kInitialStep, .run_id = run_.RunId(), .description = run_.Json()});
  }
  ShardHarness::Options Options() {
    return {.recover = false,
            .store = store_.get(),
            .writer = writer_.get(),
            .initial = initial_.get()};
  }
  Code Take(const InitialiseRequest& request, const Frames& payload, uint64_t session = 1,
            double now = 0) {
    return state_->Take(request, payload, session, now).code();
  }

  const RunDescription run_ = RunThatBegins();
  std::string folder_;
  ThreadPool pool_{1};
  std::unique_ptr<SnapshotStore> store_, initial_;
  std::unique_ptr<SnapshotWriter> writer_;
  std::unique_ptr<InitialState> state_;
};

TEST_F(InitialStateTest, TheTablesBeginWithIt) {
  for (const bool restarted : {false, true}) {
    if (restarted) Open();
    ShardHarness server(run_, Options());
    ShardHarness seeded(ShardConfig());
    const Reply hello = server.Send(server.Hello());
    ASSERT_EQ(hello.code, Code::kOk) << hello.message;
    server.session = As<HelloReply>(hello).session;
    if (!restarted) {
      EXPECT_EQ(server.Send(server.Rollback(server.epoch, 0)).code, Code::kFailed);
      InitialiseRequest request{.attempt = kAttempt};
      for (const TensorSpec& tensor : server.specs()) {
        if (tensor.total_rows() < 4) continue;
        request.tensor = tensor.id;
        const Reply taken = server.Send(server.Make(request, RowsOf(tensor, {1, 3})));
        ASSERT_EQ(taken.code, Code::kOk) << taken.message;
        EXPECT_FALSE(As<InitialiseReply>(taken).there);
        ++request.part;
      }
      EXPECT_EQ(server.Send(server.Rollback(server.epoch, 0)).code, Code::kFailed);
      request.last = true;
      const Reply last = server.Send(server.Make(request, NoMoreRows()));
      ASSERT_EQ(last.code, Code::kOk) << last.message;
      EXPECT_TRUE(As<InitialiseReply>(last).there);
    }
    const auto check = [&] {
      for (const TensorSpec& tensor : server.specs()) {
        const Reply pulled = server.Send(server.PullAll(tensor));
        ASSERT_EQ(pulled.code, Code::kOk) << pulled.message;
        const Reply before = seeded.Send(seeded.PullAll(tensor));
        const auto columns = static_cast<uint64_t>(tensor.columns);
        for (uint64_t row = 0; row < tensor.total_rows(); ++row) {
          const bool brought = tensor.total_rows() >= 4 && (row == 1 || row == 3);
          for (uint64_t c = 0; c < columns; ++c) {
            const auto value = LoadUnaligned<float>(pulled.payload[0].data(), row * columns + c);
            ASSERT_EQ(value,
                      brought ? static_cast<float>(row) + static_cast<float>(c) / 8
                              : LoadUnaligned<float>(before.payload[0].data(), row * columns + c))
                << tensor.name << " row " << row;
          }
        }
      }
    };
    const Reply rolled = server.Send(server.Rollback(server.epoch, 0));
    ASSERT_EQ(rolled.code, Code::kOk) << rolled.message;
    check();
    // It trains, and goes back to the same beginning.
    const auto state = server.State();
    server.RunStep(1, 1e-2);
    EXPECT_NE(server.State(), state);
    ++server.epoch;
    ASSERT_EQ(server.Send(server.Rollback(server.epoch, 0)).code, Code::kOk);
    EXPECT_EQ(server.State(), state);
  }
}

TEST_F(InitialStateTest, PartsComeTwiceOrInDisorder) {
  const TensorSpec& tensor = run_.tensors[0];
  EXPECT_EQ(Take({}, {}), Code::kOk);  // asks how it is
  EXPECT_EQ(Take({.attempt = kAttempt, .part = 1}, RowsOf(tensor, {1})), Code::kStale);
  EXPECT_EQ(Take({.attempt = kAttempt}, RowsOf(tensor, {1})), Code::kOk);
  EXPECT_EQ(Take({.attempt = kAttempt}, RowsOf(tensor, {1})), Code::kOk);
  EXPECT_EQ(Take({.attempt = kAttempt, .part = 2}, RowsOf(tensor, {2})), Code::kStale);
  EXPECT_EQ(Take({.attempt = kAttempt, .part = 1}, RowsOf(tensor, {2})), Code::kStale);  // is over
  EXPECT_EQ(Take({.attempt = kAttempt + 1}, RowsOf(tensor, {2})), Code::kOk);
  EXPECT_EQ(Take({.attempt = kAttempt + 1, .part = 1, .last = true}, NoMoreRows()), Code::kOk);
  EXPECT_TRUE(state_->there());
  EXPECT_EQ(Take({.attempt = kAttempt + 1, .part = 1, .last = true}, NoMoreRows()), Code::kOk);
  EXPECT_EQ(Take({.attempt = kAttempt + 2}, RowsOf(tensor, {5})), Code::kOk);  // is not taken
  EXPECT_EQ(initial_->Summary(kInitialStep).value().spaces.at(0).entries, 1u);
}

TEST_F(InitialStateTest, OneWorkerBringsItAtATime) {
  const TensorSpec& tensor = run_.tensors[0];
  EXPECT_EQ(Take({.attempt = 1}, RowsOf(tensor, {1}), 1, 0), Code::kOk);
  EXPECT_EQ(Take({.attempt = 2}, RowsOf(tensor, {1}), 2, 5), Code::kUnavailable);
  EXPECT_EQ(Take({.attempt = 1, .part = 1}, RowsOf(tensor, {2}), 1, 9), Code::kOk);
  EXPECT_EQ(Take({.attempt = 2}, RowsOf(tensor, {1}), 2, 18), Code::kUnavailable);
  const double later = 9 + InitialState::kSilentSeconds;
  EXPECT_EQ(Take({.attempt = 2}, RowsOf(tensor, {1}), 2, later), Code::kOk);
  EXPECT_EQ(Take({.attempt = 1, .part = 2}, RowsOf(tensor, {3}), 1, later), Code::kUnavailable);
  EXPECT_EQ(Take({.attempt = 2, .part = 1, .last = true}, NoMoreRows(), 2, later), Code::kOk);
  EXPECT_TRUE(state_->there());
}

TEST_F(InitialStateTest, WhatIsNoStateIsRefused) {
  const TensorSpec& tensor = run_.tensors[0];
  uint64_t attempt = 1;
  const auto refused = [&](InitialiseRequest request, const Frames& payload) {
    request.attempt = ++attempt;
    EXPECT_EQ(Take(request, payload), Code::kInvalid) << attempt;
    EXPECT_FALSE(state_->there());
  };
  refused({.tensor = 1000}, RowsOf(tensor, {1}));
  refused({}, {});
  refused({}, NoMoreRows());
  refused({.last = true}, {Frame(), Frame()});
  refused({}, {Frame(), Frame()});
  refused({}, RowsOf(tensor, {2, 2}));
  refused({}, RowsOf(tensor, {2, 1}));
  refused({}, RowsOf(tensor, {tensor.total_rows()}));
  refused({}, RowsOf(run_.tensors[2], {0}));  // of other columns
  refused({.last = true}, NoMoreRows({std::numeric_limits<double>::infinity()}));
  Frames half = RowsOf(tensor, {1, 2});
  half[1] = RowsOf(tensor, {1})[1];
  refused({}, half);
  // A row from a step that was never applied.
  EXPECT_EQ(Take({.attempt = 1000}, RowsOf(tensor, {1}, 3)), Code::kOk);
  EXPECT_EQ(Take({.attempt = 1000, .part = 1, .last = true}, NoMoreRows({0.1, 0.2})),
            Code::kInvalid);
  EXPECT_EQ(Take({.attempt = 1001}, RowsOf(tensor, {1}, 2)), Code::kOk);
  EXPECT_EQ(Take({.attempt = 1001, .part = 1}, RowsOf(tensor, {1}, 2)), Code::kInvalid);
  EXPECT_EQ(Take({.attempt = 1002}, RowsOf(tensor, {1}, 2)), Code::kOk);
  EXPECT_EQ(Take({.attempt = 1002, .part = 1, .last = true}, NoMoreRows({0.1, 0.2})), Code::kOk);
  EXPECT_TRUE(state_->there());
}

TEST_F(InitialStateTest, ARunOfASeedTakesNone) {
  ShardHarness server(ShardConfig());
  const Reply refused = server.Send(server.Make(InitialiseRequest{.attempt = 1}));
  EXPECT_EQ(refused.code, Code::kInvalid);
  ShardHarness without(run_, {.recover = false});
  without.session = As<HelloReply>(without.Send(without.Hello())).session;
  EXPECT_EQ(without.Send(without.Make(InitialiseRequest{.attempt = 1})).code, Code::kInvalid);
  EXPECT_EQ(without.Send(without.Rollback(without.epoch, 0)).code, Code::kFailed);
}

}  // namespace
}  // namespace mf
