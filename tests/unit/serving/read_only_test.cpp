// Goal: a read-only server answers what the snapshot of the named step holds, whichever number of
// servers wrote it, also while newer ones are taken and older ones let go of; what it does not
// have, or does not do, is refused and harms nothing.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <thread>

#include "pserver/serving/read_only_host.h"
#include "pserver/serving/snapshot_follower.h"
#include "pserver/snapshot/snapshot_files.h"
#include "pserver/snapshot/snapshot_load.h"
#include "pserver/table/layout.h"
#include "tests/support/snapshots/shard_snapshots.h"

namespace mf {
namespace {

constexpr uint32_t kWriters = 2, kServers = 3;  // that trained, that serve

/// Whose rows stay as they were written, however many steps go by.
RunDescription PlainRun() {
  RunDescription run = SmallRun("sgd");
  for (TensorSpec& tensor : run.tensors) tensor.weight_decay = 0;
  return run;
}

class ReadOnly : public testing::Test {
 protected:
  SnapshotFollower::Options OptionsOf(uint32_t shard, int64_t follow_seconds = 0) {
    SnapshotFollower::Options options;
    options.state = {.from = folder_.path(),
                     .shard = shard,
                     .shards = kServers,
                     .memory_bytes = 1 << 30,
                     .threads = 1};
    options.follow_seconds = follow_seconds;
    return options;
  }
  static Reply Ask(ReadOnlyHost& host, Reply* place, Request request) {
    request.id = 7;
    host.Handle("peer", request, 0);
    EXPECT_EQ(place->id, 7u);
    return std::move(*place);
  }
  /// Rows that EntriesOf() has, of a tensor.
  static Buffer RowsOf(const TensorSpec& tensor) {
    std::vector<uint64_t> rows;
    for (uint64_t row = 0; row < tensor.total_rows(); row += 1 + (row * 7 + tensor.id) % 13) {
      rows.push_back(row);
    }
    Buffer list(rows.size() * sizeof(uint64_t));
    std::copy(rows.begin(), rows.end(), list.as<uint64_t>());
    return list;
  }
  /// Pulls all rows of a tensor that were written at `step`; the code of the answer.
  Code Check(ReadOnlyHost& host, Reply* place, uint32_t shard, const TensorSpec& tensor,
             uint64_t step) {
    const Buffer rows = RowsOf(tensor);
    const Reply reply =
        Ask(host, place,
            {.body = PullRequest{.at = FinishedStep{epoch_, step}, .tensor = tensor.id},
             .payload = {rows}});
    if (reply.code != Code::kOk) return reply.code;
    const TensorShare share = ShareOf(tensor, run_.rules.column_blocks, shard, kServers);
    const auto width = static_cast<size_t>(share.columns.size());
    EXPECT_EQ(reply.payload[0].size(), rows.size() / sizeof(uint64_t) * width * sizeof(float));
    size_t wrong = 0;
    for (size_t i = 0; i < rows.size() / sizeof(uint64_t); ++i) {
      for (size_t c = 0; c < width; ++c) {
        wrong += reply.payload[0].as<float>()[i * width + c] !=
                 NumberAt(tensor, rows.as<uint64_t>()[i], 0,
                          static_cast<size_t>(share.columns.begin) + c, step);
      }
    }
    EXPECT_EQ(wrong, 0u) << tensor.name << " at step " << step;
    return reply.code;
  }

  const RunDescription run_ = PlainRun();
  const uint64_t epoch_ = ReadOnlyHost::EpochOf(run_.RunId());
  TemporaryFolder folder_{TemporaryFolder::Where::kMemory};
};

TEST_F(ReadOnly, AnswersOfTheNamedStep) {
  WriteShards(folder_.path(), run_, kWriters, 3);
  for (uint32_t shard = 0; shard < kServers; ++shard) {
    auto follower = SnapshotFollower::Open(OptionsOf(shard));
    ASSERT_TRUE(follower.ok()) << follower.status().message();
    Reply reply;
    ReadOnlyHost host(
        {.shard = {.shard = shard, .shards = kServers}, .snapshots = follower.value().get()},
        [&reply](const std::string&, Reply sent) { reply = std::move(sent); });
    for (const TensorSpec& tensor : run_.tensors) {
      EXPECT_EQ(Check(host, &reply, shard, tensor, 3), Code::kOk);
      EXPECT_EQ(Check(host, &reply, shard, tensor, 2), Code::kStale);
      EXPECT_EQ(Check(host, &reply, shard, tensor, 4), Code::kStale);
    }
    const auto refused = [&](RequestBody body) {
      return Ask(host, &reply, {.body = std::move(body)}).code;
    };
    const OpenStep open{epoch_, 4};
    EXPECT_EQ(refused(PullRequest{.at = open}), Code::kInvalid);
    EXPECT_EQ(refused(PullRequest{.at = FinishedStep{1, 3}}), Code::kWrongEpoch);
    EXPECT_EQ(refused(PullRequest{.at = FinishedStep{epoch_, 3}, .tensor = 99}), Code::kInvalid);
    EXPECT_EQ(refused(PrepareRequest{open}), Code::kInvalid);
    EXPECT_EQ(refused(LeaseRequest{}), Code::kInvalid);
    EXPECT_EQ(refused(StopRequest{}), Code::kInvalid);
    EXPECT_EQ(refused(DeleteRunRequest{}), Code::kInvalid);
    EXPECT_EQ(refused(HelloRequest{.shard = shard, .shards = kServers, .description = run_.Json()}),
              Code::kInvalid);
    EXPECT_EQ(refused(HelloRequest{.shard = shard, .shards = kServers + 1}), Code::kInvalid);
    const Reply hello =
        Ask(host, &reply, {.body = HelloRequest{.shard = shard, .shards = kServers}});
    ASSERT_EQ(hello.code, Code::kOk);
    const RunState& state = std::get<HelloReply>(hello.body).state;
    EXPECT_EQ(state.description, run_.Json());
    EXPECT_EQ(state.finished, (FinishedStep{epoch_, 3}));
    EXPECT_EQ(state.readable, std::vector<uint64_t>{3});
  }
}

TEST_F(ReadOnly, FollowsWhileItIsRead) {
  WriteShards(folder_.path(), run_, kWriters, 1);
  auto follower = SnapshotFollower::Open(OptionsOf(1, 1));
  ASSERT_TRUE(follower.ok()) << follower.status().message();
  std::atomic<bool> written = false;
  std::thread writer([&] {
    for (uint64_t step = 2; step <= 5; ++step) {
      WriteShards(folder_.path(), run_, kWriters, step);
      std::this_thread::sleep_for(std::chrono::milliseconds(1100));
    }
    written = true;
  });
  Reply reply;
  ReadOnlyHost host(
      {.shard = {.shard = 1, .shards = kServers}, .snapshots = follower.value().get()},
      [&reply](const std::string&, Reply sent) { reply = std::move(sent); });
  std::set<uint64_t> seen;
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!seen.contains(5) && std::chrono::steady_clock::now() < until) {
    const Reply hello = Ask(host, &reply, {.body = HelloRequest{.shard = 1, .shards = kServers}});
    ASSERT_EQ(hello.code, Code::kOk);
    const RunState& state = std::get<HelloReply>(hello.body).state;
    ASSERT_LE(state.readable.size(), 2u);
    for (const uint64_t step : state.readable) {
      // The older one may go at any moment.
      const Code code = Check(host, &reply, 1, run_.tensors[step % run_.tensors.size()], step);
      EXPECT_TRUE(code == Code::kOk || (code == Code::kStale && step < state.finished.step));
      if (code == Code::kOk) seen.insert(step);
    }
  }
  writer.join();
  EXPECT_GE(seen.size(), 3u);
  EXPECT_TRUE(seen.contains(5));
}

TEST_F(ReadOnly, WhatCannotBeReadIsRefused) {
  auto none = SnapshotFollower::Open(OptionsOf(0));
  EXPECT_EQ(none.status().code(), Code::kInvalid);
  WriteShards(folder_.path(), run_, kWriters, 2);
  SnapshotFollower::Options options = OptionsOf(0);
  options.state.step = 1;
  EXPECT_EQ(SnapshotFollower::Open(options).status().code(), Code::kInvalid);
  options = OptionsOf(0);
  options.ends = [] { return true; };
  EXPECT_EQ(SnapshotFollower::Open(options).status().code(), Code::kUnavailable);
  // Half a table is missing: of the newest step, the one before is served; of all, none.
  WriteShards(folder_.path(), run_, kWriters, 3);
  const auto damage = [&](uint64_t step, uint64_t but_those_of) {
    const std::string folder = FolderOf(folder_.path(), 0, kWriters);
    for (const auto& file : std::filesystem::directory_iterator(StepPath(folder, step))) {
      if (file.path().extension() != ".sst") continue;
      const std::filesystem::path other =
          std::filesystem::path(StepPath(folder, but_those_of)) / file.path().filename();
      if (std::filesystem::exists(other) && std::filesystem::equivalent(file.path(), other))
        continue;
      std::filesystem::resize_file(file.path(), std::filesystem::file_size(file.path()) / 2);
    }
  };
  damage(3, 2);
  auto older = SnapshotFollower::Open(OptionsOf(0));
  ASSERT_TRUE(older.ok()) << older.status().message();
  EXPECT_EQ(older.value()->states().back()->step(), 2u);
  damage(2, 99);
  const Status damaged = SnapshotFollower::Open(OptionsOf(0)).status();
  EXPECT_FALSE(damaged.ok());
  EXPECT_NE(damaged.message().find(".sst"), std::string::npos) << damaged.message();
}

// Goal: rows that were brought up to date once read as those that are so at every read, to the bit.
TEST(Settled, ReadsTheSame) {
  constexpr uint64_t kSteps = 5;
  ThreadPool pool(2);
  for (const char* optimizer : {"adam", "adagrad", "sgd", "mixed"}) {
    RunDescription run = SmallRun(optimizer);
    for (TensorSpec& tensor : run.tensors) {
      if (tensor.id % 2 == 1) tensor.row_type = RowType::kBf16;
    }
    for (const uint64_t memory : {uint64_t{0}, uint64_t{1} << 30}) {  // rows in an index, or direct
      ShardTables tables(run), settled(run);
      tables.Build(run, {.memory_bytes = memory}, pool);
      settled.Build(run, {.memory_bytes = memory, .only_read = true}, pool);
      std::vector<StepRecord> records;
      for (const auto& [key, value] : EntriesOf(run, 0, 1, kSteps)) {
        for (ShardTables* one : {&tables, &settled}) {
          const auto* data = reinterpret_cast<const std::byte*>(value.data());
          ASSERT_TRUE(LoadEntry(key.space, key.id, data, value.size(), *one, &records).ok());
        }
      }
      settled.Settle();
      for (const TensorSpec& tensor : run.tensors) {
        std::vector<uint64_t> rows(tensor.total_rows());
        std::iota(rows.begin(), rows.end(), uint64_t{0});
        std::vector<float> expected(rows.size() * static_cast<size_t>(tensor.columns)),
            values = expected;
        tables.tensors[tensor.id]->Pull(rows, false, tables.history, expected.data());
        settled.tensors[tensor.id]->Pull(rows, false, settled.history, values.data());
        EXPECT_EQ(0, std::memcmp(values.data(), expected.data(), values.size() * sizeof(float)))
            << optimizer << " " << tensor.name << " " << memory;
        EXPECT_EQ(settled.tensors[tensor.id]->updated_count(),
                  tables.tensors[tensor.id]->updated_count());
      }
    }
  }
}

}  // namespace
}  // namespace mf
