// Copies of tables on the GPU: what is pulled when, and that no row is older than the state it is
// read in, whatever fails. And the memory that lanes take.
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "worker/compute/cuda/device_tables.h"
#include "worker/compute/cuda/lane.h"
#include "worker/config/tensors.h"

namespace mf {
namespace {

using cuda::DeviceTables;
using cuda::Lane;
using cuda::Pairs;

/// Servers whose rows say which state they are of: row r is r + 1000 * step + 0.25 * column.
class StatefulRows final : public RowExchange {
 public:
  explicit StatefulRows(FinishedStep state) : state_(state) {}

  FinishedStep state() const override { return state_; }
  Status PullRows(const TensorSpec& tensor, const Frame& rows, float* values) override {
    const size_t count = rows.size() / sizeof(uint64_t);
    const size_t columns = static_cast<size_t>(tensor.columns);
    for (size_t i = 0; i < count; ++i) {
      const uint64_t row = LoadUnaligned<uint64_t>(rows.data(), i);
      EXPECT_TRUE(i == 0 || LoadUnaligned<uint64_t>(rows.data(), i - 1) < row) << "not rising";
      for (size_t c = 0; c < columns; ++c) values[i * columns + c] = Value(state_, row, c);
    }
    pulled += count;
    return refuses ? Status(Code::kStale, "the step has ended") : Status::Ok();
  }
  void SendGradient(const TensorSpec&, const Hashes&, const Buffer&) override {}
  void PushRows(const TensorSpec&, const Frame&, const Frame&, const Frame&) override {}

  static float Value(FinishedStep state, uint64_t row, size_t column) {
    return static_cast<float>(row) + 1000.0f * static_cast<float>(state.step) +
           0.25f * static_cast<float>(column);
  }

  size_t pulled = 0;
  bool refuses = false;

 private:
  const FinishedStep state_;
};

Config SmallConfig() {
  Config config;
  config.model.d = 12;
  config.model.K = 3;
  config.model.tau = 4;
  config.model.layers = 1;
  config.model.heads = 2;
  config.model.sequence = 8;
  config.train.batch = 2;
  config.exchange.placement = Placement::kDevice;
  return config;
}

class DeviceTablesTest : public testing::Test {
 protected:
  DeviceTablesTest()
      : tensors(TensorsOf(config)), plan(config, tensors), tables(tensors), lane(NewLane()) {}

  std::unique_ptr<Lane> NewLane() const {
    return std::make_unique<Lane>(config, tensors, plan, kTokens);
  }

  /// Buckets of all tables and tokens as the hash leaves them, on the GPU.
  Pairs PairsOf(const std::vector<uint8_t>& indices, Lane& on) const {
    const TensorSpec& spec = tensor();
    std::byte* place = on.device.blocks[0].qkv_hash.indices;
    on.Upload(reinterpret_cast<const std::byte*>(indices.data()), indices.size(), place);
    on.stream.Wait();
    return {.tokens = kTokens,
            .tables = static_cast<size_t>(spec.tables),
            .probes = 1,
            .rows_per_table = static_cast<size_t>(spec.rows),
            .index_bytes = 1,
            .indices = place,
            .weights = on.device.blocks[0].qkv_hash.weights};
  }

  /// Refreshes for `indices` and checks every row that they meet.
  Status Meet(const std::vector<uint8_t>& indices, StatefulRows& rows, Lane& on) {
    const float* table = nullptr;
    MF_RETURN_IF_ERROR(tables.Refresh(tensor(), PairsOf(indices, on), rows, on, &table));
    const size_t columns = static_cast<size_t>(tensor().columns);
    std::vector<float> all(tensor().total_rows() * columns);
    on.Download(table, all.size(), all.data());
    on.stream.Wait();
    for (size_t at = 0; at < indices.size(); ++at) {
      const size_t row = at / kTokens * static_cast<size_t>(tensor().rows) + indices[at];
      for (size_t c = 0; c < columns; ++c) {
        EXPECT_EQ(all[row * columns + c], StatefulRows::Value(rows.state(), row, c)) << row;
      }
    }
    return Status::Ok();
  }

  const TensorSpec& tensor() const { return *FindTensor(tensors, "blocks.0.qkv.tables"); }

  static constexpr size_t kTokens = 16;
  const Config config = SmallConfig();
  const std::vector<TensorSpec> tensors;
  const Model::Plan plan;
  DeviceTables tables;
  std::unique_ptr<Lane> lane;
  // 3 tables x 16 tokens: buckets 0 to 7, and buckets 4 to 11.
  const std::vector<uint8_t> low = Buckets(0);
  const std::vector<uint8_t> middle = Buckets(4);

 private:
  static std::vector<uint8_t> Buckets(uint8_t first) {
    std::vector<uint8_t> buckets(3 * kTokens);
    for (size_t i = 0; i < buckets.size(); ++i) {
      buckets[i] = static_cast<uint8_t>(first + i * 5 % 8);
    }
    return buckets;
  }
};

TEST_F(DeviceTablesTest, ARowIsPulledOnceInAState) {
  StatefulRows rows({1, 7});
  ASSERT_TRUE(Meet(low, rows, *lane).ok());
  EXPECT_EQ(rows.pulled, 3u * 8);
  ASSERT_TRUE(Meet(low, rows, *lane).ok());
  EXPECT_EQ(rows.pulled, 3u * 8);
  ASSERT_TRUE(Meet(middle, rows, *lane).ok());
  EXPECT_EQ(rows.pulled, 3u * 12) << "the four that are new";
  StatefulRows next({1, 8});
  ASSERT_TRUE(Meet(low, next, *lane).ok());
  EXPECT_EQ(next.pulled, 3u * 8) << "another step: all again";
}

TEST_F(DeviceTablesTest, NothingCountsAfterARefusal) {
  StatefulRows rows({1, 7}), late({1, 6}), again({1, 7});
  ASSERT_TRUE(Meet(low, rows, *lane).ok());
  late.refuses = true;  // as servers do once the step has ended
  EXPECT_EQ(Meet(middle, late, *lane).code(), Code::kStale);
  ASSERT_TRUE(Meet(low, again, *lane).ok());
  EXPECT_EQ(again.pulled, 3u * 8);
  again.refuses = true;  // half way through the same state
  EXPECT_EQ(Meet(middle, again, *lane).code(), Code::kStale);
  again.refuses = false;
  ASSERT_TRUE(Meet(middle, again, *lane).ok());
}

TEST_F(DeviceTablesTest, AnEpochMayFallAndServersMayBeReplaced) {
  StatefulRows rows({5, 7}), before({2, 7}), same({2, 7});
  ASSERT_TRUE(Meet(low, rows, *lane).ok());
  ASSERT_TRUE(Meet(low, before, *lane).ok());
  EXPECT_EQ(before.pulled, 3u * 8);
  tables.Forget();
  ASSERT_TRUE(Meet(low, same, *lane).ok());
  EXPECT_EQ(same.pulled, 3u * 8);
}

TEST_F(DeviceTablesTest, LanesShareTheRows) {
  std::vector<std::unique_ptr<Lane>> lanes;
  for (int i = 0; i < 3; ++i) lanes.push_back(NewLane());
  for (uint64_t step = 1; step <= 4; ++step) {
    std::vector<StatefulRows> rows(lanes.size(), StatefulRows({1, step}));
    std::vector<std::thread> threads;
    for (size_t i = 0; i < lanes.size(); ++i) {
      threads.emplace_back([&, i] {
        EXPECT_TRUE(Meet(low, rows[i], *lanes[i]).ok());
        EXPECT_TRUE(Meet(middle, rows[i], *lanes[i]).ok());
      });
    }
    for (std::thread& thread : threads) thread.join();
    size_t pulled = 0;
    for (const StatefulRows& each : rows) pulled += each.pulled;
    EXPECT_EQ(pulled, 3u * 12) << "all lanes together";
  }
}

TEST(PinnedPoolTest, SizesThatVaryDoNotMakeItGrow) {
  cuda::PinnedPool pool;
  size_t largest = 0;
  for (size_t i = 0; i < 1000; ++i) {
    const size_t bytes = 40'000 + i * 7919 % 60'000;
    largest = std::max(largest, bytes);
    const Buffer buffer = pool.Take(bytes);
    EXPECT_EQ(buffer.size(), bytes);
  }
  EXPECT_LT(pool.bytes_made(), 16 * largest);
  const size_t made = pool.bytes_made();
  const Buffer held = pool.Take(50'000);
  const Buffer other = pool.Take(50'000);
  EXPECT_NE(held.data(), other.data()) << "what is in a message is nobody else's";
  EXPECT_GT(pool.bytes_made(), made);
}

}  // namespace
}  // namespace mf
