// Goal: a keyed tensor is a map from 64 bits to rows, the same bits for any number of servers: what
// is read, what is listed, the norm of its gradient and what a snapshot hands over; each row is one
// server's. Keys and rows are each other's inverse.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <map>
#include <memory>
#include <random>
#include <set>

#include "common/client/lease_work.h"
#include "common/run/keyed_rows.h"
#include "common/run/tensor_share.h"
#include "pserver/table/row_format.h"
#include "pserver/table/tensor_shard.h"
#include "tests/support/frames.h"
#include "tests/support/shard_harness.h"

namespace mf {
namespace {

constexpr size_t kColumns = 40;  // two blocks
constexpr uint64_t kLast = ~uint64_t{0};
constexpr uint32_t kMicroBatches = 2;

TensorSpec Keyed(OptimizerKind optimizer = OptimizerKind::kSgd) {
  TensorSpec spec{.name = "items", .kind = TensorKind::kKeyed};
  spec.tables = kKeyRanges;
  spec.rows = kRowsPerKeyRange;
  spec.columns = kColumns;
  spec.init = Init::kNormal;
  spec.init_value = 0.1;
  spec.optimizer.kind = optimizer;
  spec.optimizer.sparse_update = SparseUpdate::kLazy;
  spec.shape = {kColumns};
  return spec;
}

/// Some rows with their gradients, rising.
using Hits = std::map<uint64_t, std::vector<float>>;

/// The tensor on a number of servers.
class Servers {
 public:
  Servers(const TensorSpec& spec, size_t shards, int threads)
      : spec_(spec), history_({spec}), pool_(threads), shares_(SharesOf({spec}, 0, shards)) {
    const auto count = static_cast<int64_t>(shards);
    for (int64_t i = 0; i < count; ++i) {
      shards_.push_back(std::make_unique<TensorShard>(
          LayoutOf(spec, 0, i, count),
          TensorShard::Options{.storage = Table::Storage::kSparse, .micro_batches = kMicroBatches},
          clock_, pool_, arena_, scratch_));
    }
  }
  size_t size() const { return shards_.size(); }
  const TensorShard& shard(size_t i) const { return *shards_[i]; }

  void Contribute(uint32_t micro_batch, const Hits& hits) {
    std::vector<std::vector<uint64_t>> rows(size());
    std::vector<std::vector<float>> values(size());
    for (const auto& [row, gradient] : hits) {
      const size_t owner = OwnerOf(row);
      rows[owner].push_back(row);
      values[owner].insert(values[owner].end(), gradient.begin(), gradient.end());
    }
    for (size_t i = 0; i < size(); ++i) {
      Contribution c;
      c.is_push = true;
      c.rows = BufferOf(rows[i]);
      c.values = BufferOf(values[i]);
      shards_[i]->Contribute(micro_batch, std::move(c));
    }
  }
  /// The squares of the step's gradient.
  double End(double lr) {
    std::vector<Reply> replies;
    for (const auto& shard : shards_) {
      std::vector<double> squares;
      shard->Prepare(&squares);
      replies.push_back({.body = PrepareReply{}, .payload = {FrameOf(squares)}});
    }
    const double squares = CombinePrepared({spec_}, shares_, replies).value().squares;
    for (const auto& shard : shards_) shard->Apply(history_, lr, 1.0f);
    history_.Append(lr);
    return squares;
  }
  /// `rows` rise.
  std::vector<float> Pull(const std::vector<uint64_t>& rows, bool training = false) {
    std::vector<float> values(rows.size() * kColumns);
    for (size_t i = 0; i < size(); ++i) {
      const RowSlice own = RowsOfShare(spec_, shares_[0][i], rows.data(), rows.size());
      shards_[i]->Pull({rows.data() + own.begin, own.size()}, training, history_,
                       values.data() + own.begin * kColumns);
    }
    return values;
  }
  std::vector<uint64_t> List(uint64_t first, uint64_t most) const {
    std::vector<uint64_t> rows;
    for (const auto& shard : shards_) {
      const auto more = shard->UpdatedRows(first, most - rows.size());
      rows.insert(rows.end(), more.begin(), more.end());
    }
    return rows;
  }
  uint64_t updated_count() const {
    uint64_t count = 0;
    for (const auto& shard : shards_) count += shard->updated_count();
    return count;
  }
  /// What a snapshot of all servers holds.
  std::map<uint64_t, std::vector<std::byte>> Cut() {
    std::map<uint64_t, std::vector<std::byte>> entries;
    for (const auto& shard : shards_) {
      shard->BeginCut(-1);
      std::vector<std::byte> state(shard->row_bytes());
      uint64_t last = 0;
      for (uint64_t row = 0; shard->NextCutRow(&row, state.data()); last = row) {
        EXPECT_TRUE(last == 0 || last < row);
        EXPECT_TRUE(entries.emplace(row, state).second) << "two servers have it";
      }
      shard->EndCut();
    }
    return entries;
  }
  void Restore(const std::map<uint64_t, std::vector<std::byte>>& entries,
               const UpdateHistory& history) {
    history_ = history;
    for (const auto& [row, state] : entries) {
      for (size_t i = 0; i < size(); ++i) {
        const Status restored = shards_[i]->Restore(row, state.data(), state.size());
        EXPECT_EQ(restored.ok(), i == OwnerOf(row)) << restored.message();
      }
    }
  }
  const UpdateHistory& history() const { return history_; }

 private:
  size_t OwnerOf(uint64_t row) const {
    for (size_t i = 0; i < size(); ++i) {
      if (shards_[i]->layout().Has(row)) return i;
    }
    ADD_FAILURE() << "nobody has row " << row;
    return 0;
  }

  const TensorSpec spec_;
  UpdateHistory history_;
  ThreadPool pool_;
  const ChangeClock clock_;
  PageArena arena_;
  RequestScratch scratch_;
  const RunShares shares_;
  std::vector<std::unique_ptr<TensorShard>> shards_;
};

/// Rows of which some come again and again: both ends, both sides of borders between tables, and
/// any others.
uint64_t DrawRow(std::mt19937_64& random) {
  const uint64_t border = random() << 58;
  switch (random() % 6) {
    case 0:
      return random() % 2 == 0 ? 0 : kLast;
    case 1:
      return border;
    case 2:
      return border - 1;
    case 3:
      return border + random() % 5;
    default:
      return random() % 200 * 0x9E3779B97F4A7C15ull;
  }
}

Hits DrawHits(std::mt19937_64& random) {
  Hits hits;
  for (size_t i = random() % 60; i > 0; --i) {
    std::vector<float>& gradient = hits[DrawRow(random)];
    gradient.resize(kColumns);
    for (float& number : gradient) number = static_cast<float>(random() % 1001) / 500 - 1;
  }
  return hits;
}

TEST(KeyedTensor, IsOneMapForAnyNumberOfServers) {
  for (const OptimizerKind kind : {OptimizerKind::kSgd, OptimizerKind::kRowAdam}) {
    std::vector<std::unique_ptr<Servers>> clusters;
    for (const size_t shards : {1, 2, 3, 64}) {
      clusters.push_back(std::make_unique<Servers>(Keyed(kind), shards, shards == 3 ? 3 : 1));
    }
    Servers& one = *clusters[0];
    std::mt19937_64 random(5);
    std::map<uint64_t, std::vector<double>> model;
    for (int step = 1; step <= 25; ++step) {
      double squares = 0;
      std::map<uint64_t, std::vector<double>> sums;
      for (uint32_t micro_batch = 0; micro_batch < kMicroBatches; ++micro_batch) {
        const Hits hits = DrawHits(random);
        for (const auto& servers : clusters) servers->Contribute(micro_batch, hits);
        for (const auto& [row, gradient] : hits) {
          std::vector<double>& sum = sums[row];
          sum.resize(kColumns);
          for (size_t c = 0; c < kColumns; ++c) sum[c] += gradient[c];
          if (model.contains(row)) continue;
          const std::vector<float> start = one.Pull({row});
          model[row].assign(start.begin(), start.end());
        }
      }
      for (const auto& [row, sum] : sums) {
        for (size_t c = 0; c < kColumns; ++c) {
          squares += sum[c] * sum[c];
          model[row][c] -= 0.1 * sum[c];
        }
      }
      const double expected = one.End(0.1);
      EXPECT_NEAR(expected, squares, 1e-5 * squares);
      for (size_t i = 1; i < clusters.size(); ++i) {
        ASSERT_EQ(std::bit_cast<uint64_t>(clusters[i]->End(0.1)),
                  std::bit_cast<uint64_t>(expected));
      }
    }
    std::vector<uint64_t> rows;
    for (const auto& [row, values] : model) rows.push_back(row);
    std::vector<uint64_t> with_new = rows;
    for (int i = 0; i < 50; ++i) with_new.push_back(random());
    std::sort(with_new.begin(), with_new.end());
    const std::vector<float> values = one.Pull(with_new);
    const auto entries = one.Cut();
    EXPECT_EQ(entries.size(), rows.size());
    for (const auto& servers : clusters) {
      EXPECT_EQ(Bits(servers->Pull(with_new)), Bits(values));
      EXPECT_EQ(servers->updated_count(), rows.size()) << "reading makes no rows";
      EXPECT_EQ(servers->List(0, kLast), rows);
      EXPECT_EQ(servers->List(kLast, 5), std::vector<uint64_t>{kLast});
      EXPECT_EQ(servers->List(rows[3], 4),
                std::vector<uint64_t>(rows.begin() + 3, rows.begin() + 7));
      EXPECT_EQ(servers->Cut(), entries);
      Servers restored(Keyed(kind), servers->size(), 2);
      restored.Restore(entries, one.history());
      EXPECT_EQ(Bits(restored.Pull(with_new)), Bits(values));
      EXPECT_EQ(restored.Cut(), entries);
    }
    if (kind != OptimizerKind::kSgd) continue;
    const std::vector<float> trained = one.Pull(rows);
    for (size_t i = 0; i < rows.size(); ++i) {
      for (size_t c = 0; c < kColumns; ++c) {
        ASSERT_NEAR(trained[i * kColumns + c], model[rows[i]][c], 1e-5);
      }
    }
  }
}

// Goal: every row has exactly one owner, and what is sent to a server of rising rows is a part of
// them without gaps.
TEST(KeyedTensor, RowsAreDealtToServers) {
  std::mt19937_64 random(6);
  std::set<uint64_t> drawn = {0, kLast};
  for (int i = 0; i < 300; ++i) drawn.insert(DrawRow(random));
  const std::vector<uint64_t> rows(drawn.begin(), drawn.end());
  const TensorSpec spec = Keyed();
  EXPECT_EQ(MostShards(spec, 0), kKeyRanges);
  for (size_t shards = 1; shards <= static_cast<size_t>(kKeyRanges); ++shards) {
    const RunShares shares = SharesOf({spec}, 0, shards);
    size_t next = 0;
    for (size_t i = 0; i < shards; ++i) {
      const RowSlice own = RowsOfShare(spec, shares[0][i], rows.data(), rows.size());
      ASSERT_EQ(own.begin, next);
      next = own.end;
      const TensorLayout layout =
          LayoutOf(spec, 0, static_cast<int64_t>(i), static_cast<int64_t>(shards));
      for (size_t r = 0; r < rows.size(); ++r) {
        ASSERT_EQ(layout.Has(rows[r]), own.begin <= r && r < own.end);
      }
    }
    ASSERT_EQ(next, rows.size());
  }
}

TEST(KeyedTensor, KeysAndRowsAreInverse) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 1000; ++i) {
    const uint64_t key = i < 64 ? uint64_t{1} << i : random();
    EXPECT_EQ(KeyOfRow(RowOfKey(key)), key);
    EXPECT_EQ(RowOfKey(KeyOfRow(key)), key);
  }
  // fmix64 of MurmurHash3.
  EXPECT_EQ(RowOfKey(0), 0u);
  EXPECT_EQ(RowOfKey(1), 0xB456BCFC34C2CB2Cull);
}

// Goal: neighbouring keys, as most people number things, are spread evenly.
TEST(KeyedTensor, NeighboursAreSpread) {
  std::vector<int> counts(kKeyRanges);
  constexpr int kKeys = 64'000;
  for (uint64_t key = 0; key < kKeys; ++key) ++counts[RowOfKey(key) >> 58];
  for (const int count : counts) EXPECT_NEAR(count, 1000, 6 * 32) << "6 standard deviations";
}

/// A run with a keyed tensor and a vector.
RunDescription KeyedRun() {
  RunDescription run;
  run.tensors = {Keyed(), {.id = 1, .name = "bias", .columns = 64, .shape = {64}}};
  run.rules.micro_batches = 1;
  return run;
}

TEST(KeyedTensor, DescriptionsOfOtherSizesAreRefused) {
  EXPECT_TRUE(KeyedRun().Check().ok()) << KeyedRun().Check().message();
  const auto refused = [](auto change) {
    RunDescription run = KeyedRun();
    change(run.tensors[0]);
    return run.Check().code() == Code::kInvalid;
  };
  EXPECT_TRUE(refused([](TensorSpec& t) { t.tables = 32; }));
  EXPECT_TRUE(refused([](TensorSpec& t) { t.rows /= 2; }));
  EXPECT_TRUE(refused([](TensorSpec& t) { t.probes = 2; }));
  EXPECT_TRUE(refused([](TensorSpec& t) { t.shape = {kColumns, 2}; }));
  EXPECT_TRUE(refused([](TensorSpec& t) { t.mode = ExchangeMode::kPushdown; }));
  RunDescription run = KeyedRun();
  run.tensors.pop_back();
  EXPECT_EQ(MaxShards(run), kKeyRanges);
  EXPECT_NE(CheckShards(run, 65).message().find("64 ranges of keys"), std::string::npos);
}

// Goal: a server takes rows by name, and those of its ranges only.
TEST(KeyedTensor, WrongRequestsAreRefused) {
  ShardHarness server(KeyedRun(), {});
  const TensorSpec spec = Keyed();
  const std::vector<float> row(kColumns, 1.0f);
  const auto pull = [&](const std::vector<uint64_t>& rows, uint64_t count = 0, uint64_t first = 0) {
    return server
        .Send(server.Make(
            PullRequest{
                .at = server.finished(), .tensor = spec.id, .first_row = first, .row_count = count},
            {FrameOf(rows)}))
        .code;
  };
  EXPECT_EQ(pull({}), Code::kOk);
  EXPECT_EQ(pull({0, 77, kLast}), Code::kOk);
  EXPECT_EQ(pull({77, 77}), Code::kInvalid);
  EXPECT_EQ(pull({kLast, 0}), Code::kInvalid);
  EXPECT_EQ(pull({}, 1), Code::kInvalid);
  EXPECT_EQ(pull({}, kLast, kLast), Code::kInvalid);
  const auto push = [&](const std::vector<uint64_t>& rows, uint64_t count,
                        const std::vector<float>& values) {
    return server
        .Send(server.Make(PushRequest{.at = server.open(), .tensor = spec.id, .row_count = count},
                          {FrameOf(rows), Frame(), FrameOf(values)}))
        .code;
  };
  EXPECT_EQ(push({}, 5, row), Code::kInvalid);
  EXPECT_EQ(push({}, kLast, {}), Code::kInvalid);
  EXPECT_EQ(push({3, 2}, 2, row), Code::kInvalid);
  EXPECT_EQ(push({kLast}, 1, row), Code::kOk);
  const Reply forward = server.Send(server.Make(
      ForwardRequest{.at = server.finished(), .tensor = spec.id, .tokens = 1}, {Frame(), Frame()}));
  EXPECT_EQ(forward.code, Code::kInvalid);
}

}  // namespace
}  // namespace mf
