// Goal: how a table is stored and who reads it in between never shows in its numbers (DESIGN 2.8,
// 3).
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>
#include <set>
#include <unordered_map>

#include "common/base/bf16.h"
#include "common/run/schedule.h"
#include "pserver/table/row_index.h"
#include "pserver/table/tensor_shard.h"
#include "tests/support/frames.h"
#include "tests/support/shard_harness.h"
#include "worker/config/tensors.h"

namespace mf {
namespace {

struct Rule {
  OptimizerKind optimizer;
  SparseUpdate sparse_update;
  RowType row_type = RowType::kF32;
};

Config ConfigOf(const Rule& rule) {
  Config config = ShardConfig();
  config.train.optimizer = rule.optimizer;
  config.train.sparse_update = rule.sparse_update;
  config.model.table_dtype = rule.row_type;
  return config;
}

const std::vector<OptimizerKind> kOptimizers = [] {
  std::vector<OptimizerKind> all;
  for (size_t i = 0; i < kOptimizerNames.size(); ++i) all.push_back(static_cast<OptimizerKind>(i));
  return all;
}();

class StorageTest : public ::testing::TestWithParam<Rule> {};

// Goal: sparse and direct storage, and any number of threads, give the same bits over steps with a
// dropped one between, for rows that were hit, were missed, or never updated; prepare answers the
// same.
TEST_P(StorageTest, SparseAndDirectAreTheSame) {
  const Config config = ConfigOf(GetParam());
  ShardHarness direct(config, {.memory_bytes = 1 << 30});
  ShardHarness sparse(config, {.memory_bytes = 0, .threads = 3});
  EXPECT_EQ(direct.State(), sparse.State());
  for (uint64_t step = 1; step <= 8; ++step) {
    const double lr = LearningRate(DescribeRun(config, "").rules, step * 5);
    const Reply a = direct.RunStep(step, lr, step != 4), b = sparse.RunStep(step, lr, step != 4);
    ASSERT_EQ(a.payload[0].size(), b.payload[0].size());
    EXPECT_EQ(0, std::memcmp(a.payload[0].data(), b.payload[0].data(), a.payload[0].size()));
    ASSERT_EQ(direct.State(), sparse.State()) << "after step " << step;
    for (const TensorSpec& spec : direct.specs()) {
      const auto list = [&](ShardHarness& server) {
        return server.Send(server.Make(
            ListRowsRequest{.at = {server.epoch, step}, .tensor = spec.id, .row_count = 1000}));
      };
      const Reply in_direct = list(direct), in_sparse = list(sparse);
      ASSERT_EQ(in_direct.code, Code::kOk) << in_direct.message;
      ASSERT_EQ(in_sparse.code, Code::kOk) << in_sparse.message;
      const Frame x = in_direct.payload[0], y = in_sparse.payload[0];
      ASSERT_EQ(x.size(), y.size()) << spec.name;
      ASSERT_TRUE(x.size() == 0 || std::memcmp(x.data(), y.data(), x.size()) == 0) << spec.name;
    }
  }
}

// Goal: reading outside of training leaves no trace, at whatever moment it happens.
TEST_P(StorageTest, ReadingLeavesNoTrace) {
  const Config config = ConfigOf(GetParam());
  for (const uint64_t memory_bytes : {0, 1 << 30}) {
    ShardHarness read(config, {.memory_bytes = memory_bytes});
    ShardHarness unread(config, {.memory_bytes = memory_bytes});
    for (uint64_t step = 1; step <= 6; ++step) {
      for (uint32_t micro_batch = 0; micro_batch < 3; ++micro_batch) {
        const auto before = read.State();
        for (const TensorSpec& spec : read.specs()) {
          if (spec.kind != TensorKind::kMemory) continue;
          Request forward = read.Forward(spec, step + 500, micro_batch);  // other rows than hit
          std::get<ForwardRequest>(forward.body).at = read.finished();
          ASSERT_EQ(read.Send(forward).code, Code::kOk);
        }
        ASSERT_EQ(read.State(), before);
        read.MicroBatch(step, micro_batch);
        ASSERT_EQ(read.State(), before);  // nor does a step that is under way
        unread.MicroBatch(step, micro_batch);
      }
      read.End(1e-2, step != 3);
      unread.End(1e-2, step != 3);
    }
    EXPECT_EQ(read.State(), unread.State());
  }
}

INSTANTIATE_TEST_SUITE_P(Rules, StorageTest, ::testing::ValuesIn([] {
                           std::vector<Rule> rules;
                           for (const RowType type : {RowType::kF32, RowType::kBf16}) {
                             for (const OptimizerKind kind : kOptimizers) {
                               rules.push_back({kind, SparseUpdate::kExact, type});
                               rules.push_back({kind, SparseUpdate::kLazy, type});
                             }
                           }
                           return rules;
                         }()));

// Goal: every tensor is updated by its own optimizer, rate and decay, as in a run in which all have
// these; that of one tensor is no other's.
TEST(Tensors, HaveAnOptimizerOfTheirOwn) {
  struct Own {
    OptimizerSettings optimizer;
    double rate_scale, weight_decay;
  };
  std::vector<Own> owns;
  for (const OptimizerKind kind : kOptimizers) {
    for (const SparseUpdate sparse : {SparseUpdate::kExact, SparseUpdate::kLazy}) {
      const double n = static_cast<double>(owns.size());
      owns.push_back({{kind, 0.5 + 0.03 * n, 0.6 + 0.03 * n, 1e-3 * (n + 1), sparse},
                      0.25 * (n + 1),
                      0.125 * n});
    }
  }
  const auto give = [](const Own& own, TensorSpec& tensor) {
    tensor.optimizer = own.optimizer;
    tensor.rate_scale = own.rate_scale;
    tensor.weight_decay = own.weight_decay;
  };
  const RunDescription plain = DescribeRun(ShardConfig(), "");
  ASSERT_GT(plain.tensors.size(), owns.size());
  RunDescription mixed = plain;
  for (TensorSpec& tensor : mixed.tensors) give(owns[tensor.id % owns.size()], tensor);
  ASSERT_TRUE(mixed.Check().ok()) << mixed.Check().message();
  for (const uint64_t memory_bytes : {uint64_t{1} << 30, uint64_t{0}}) {
    ShardHarness server(mixed, {.memory_bytes = memory_bytes});
    for (uint64_t step = 1; step <= 6; ++step) server.RunStep(step, 0.1, step != 3);
    std::set<std::vector<uint32_t>> states;
    for (size_t i = 0; i < owns.size(); ++i) {
      RunDescription alike = plain;
      for (TensorSpec& tensor : alike.tensors) give(owns[i], tensor);
      ShardHarness other(alike, {.memory_bytes = memory_bytes});
      for (uint64_t step = 1; step <= 6; ++step) other.RunStep(step, 0.1, step != 3);
      for (size_t id = i; id < plain.tensors.size(); id += owns.size()) {
        const TensorSpec& tensor = plain.tensors[id];
        const Reply a = server.Send(server.PullAll(tensor)), b = other.Send(other.PullAll(tensor));
        ASSERT_EQ(a.payload[0].size(), b.payload[0].size());
        EXPECT_EQ(0, std::memcmp(a.payload[0].data(), b.payload[0].data(), a.payload[0].size()))
            << tensor.name << " with "
            << kOptimizerNames[static_cast<size_t>(owns[i].optimizer.kind)];
      }
      states.insert(other.State());
    }
    EXPECT_EQ(states.size(), owns.size());
  }
}

// Goal: a rate of its own is that rate: half of it at twice the schedule's is the same, missed
// steps and decay included.
TEST(Tensors, RatesAreScaled) {
  for (const OptimizerKind kind : kOptimizers) {
    RunDescription one = DescribeRun(ShardConfig(), "");
    for (TensorSpec& tensor : one.tensors) tensor.optimizer.kind = kind;
    RunDescription half = one;
    for (TensorSpec& tensor : half.tensors) tensor.rate_scale = 0.5;
    ShardHarness a(one, {}), b(half, {.memory_bytes = 0});
    for (uint64_t step = 1; step <= 6; ++step) {
      a.RunStep(step, 0.01);
      b.RunStep(step, 0.02);
    }
    EXPECT_EQ(a.State(), b.State());
  }
}

constexpr size_t kColumns = 32;  // two blocks
constexpr size_t kBlock = 16;
constexpr size_t kRows = 16;

/// One table of 16 rows of 32 columns, updated by pushes of single rows.
class OneTable {
 public:
  OneTable(const TrainConfig& config, Table::Storage storage, RowType row_type = RowType::kF32)
      : history_({SpecOf(config, row_type)}), pool_(1) {
    tensor_ = std::make_unique<TensorShard>(LayoutOf(SpecOf(config, row_type), 0, 0, 1),
                                            TensorShard::Options{1, storage}, clock_, pool_, arena_,
                                            scratch_);
  }
  void Step(const std::vector<uint64_t>& rows, const std::vector<float>& gradient, double lr) {
    Contribution c;
    c.is_push = true;
    c.rows = BufferOf(rows);
    c.values = FrameOf(gradient);
    tensor_->Contribute(0, std::move(c));
    std::vector<double> squares;
    tensor_->Prepare(&squares);
    tensor_->Apply(history_, lr, 1.0f);
    history_.Append(lr);
  }
  std::vector<float> Values() {
    std::vector<uint64_t> rows(kRows);
    for (size_t i = 0; i < kRows; ++i) rows[i] = i;
    std::vector<float> values(kRows * kColumns);
    tensor_->Pull(rows, false, history_, values.data());
    return values;
  }

 private:
  static TensorSpec SpecOf(const TrainConfig& config, RowType row_type) {
    TensorSpec spec;
    spec.name = "table";
    spec.rows = kRows;
    spec.columns = kColumns;
    spec.init = Init::kNormal;
    spec.init_value = 0.1;
    spec.optimizer = {config.optimizer, config.beta1, config.beta2, config.eps,
                      config.sparse_update};
    spec.weight_decay = config.weight_decay;
    spec.row_type = row_type;
    return spec;
  }

  UpdateHistory history_;
  ThreadPool pool_;
  const ChangeClock clock_;
  PageArena arena_;
  RequestScratch scratch_;
  std::unique_ptr<TensorShard> tensor_;
};

/// Dense AdamW (or another one) over all numbers, in double, as the textbook has it.
class NaiveOptimizer {
 public:
  NaiveOptimizer(const TrainConfig& config, const std::vector<float>& start)
      : config_(config), w(start.begin(), start.end()), m(w.size()), v(w.size()) {}
  void Step(const std::vector<double>& gradient, double lr) {
    ++step_;
    const double first = 1 - std::pow(config_.beta1, step_);
    const double second = 1 - std::pow(config_.beta2, step_);
    for (size_t i = 0; i < w.size(); ++i) {
      w[i] *= 1 - lr * config_.weight_decay;
      double mean_square = 0;  // over the block
      for (size_t c = 0; c < kBlock; ++c) {
        mean_square += std::pow(gradient[i / kBlock * kBlock + c], 2) / kBlock;
      }
      switch (config_.optimizer) {
        case OptimizerKind::kSgd:
          w[i] -= lr * gradient[i];
          break;
        case OptimizerKind::kAdagrad:
          v[i] += gradient[i] * gradient[i];
          w[i] -= lr * gradient[i] / (std::sqrt(v[i]) + config_.eps);
          break;
        case OptimizerKind::kAdam:
          m[i] = config_.beta1 * m[i] + (1 - config_.beta1) * gradient[i];
          v[i] = config_.beta2 * v[i] + (1 - config_.beta2) * gradient[i] * gradient[i];
          w[i] -= lr * (m[i] / first) / (std::sqrt(v[i] / second) + config_.eps);
          break;
        case OptimizerKind::kRowAdagrad:  // v is the same over a block
          v[i] += mean_square;
          w[i] -= lr * gradient[i] / (std::sqrt(v[i]) + config_.eps);
          break;
        case OptimizerKind::kRowAdam:
          m[i] = config_.beta1 * m[i] + (1 - config_.beta1) * gradient[i];
          v[i] = config_.beta2 * v[i] + (1 - config_.beta2) * mean_square;
          w[i] -= lr * (m[i] / first) / (std::sqrt(v[i] / second) + config_.eps);
          break;
      }
    }
  }

 private:
  const TrainConfig config_;
  double step_ = 0;

 public:
  std::vector<double> w, m, v;
};

// Goal: rows that are hit now and then, with gaps of one step to far beyond 256, or never, have the
// values that dense updates in double would have given them, to rounding: a step rounds w a few
// times to half an eps of its size (at most 2 here), and errors add up like a random walk at worst.
TEST(ExactUpdates, EqualDenseUpdates) {
  constexpr int kSteps = 1500;
  const double tolerance = std::sqrt(kSteps) * 2 * 0x1p-24;
  for (const OptimizerKind kind : kOptimizers) {
    TrainConfig config;
    config.optimizer = kind;
    config.steps = kSteps;
    OneTable direct(config, Table::Storage::kDirect), sparse(config, Table::Storage::kSparse);
    OneTable narrow(config, Table::Storage::kDirect, RowType::kBf16);
    OneTable narrow_sparse(config, Table::Storage::kSparse, RowType::kBf16);
    NaiveOptimizer naive(config, direct.Values());
    std::mt19937_64 random(11);
    std::vector<int> last_hit(kRows, 0);
    int longest = 0;
    double worst = 0;
    for (int step = 1; step <= kSteps; ++step) {
      std::vector<uint64_t> rows;
      std::vector<float> gradient;
      std::vector<double> dense(kRows * kColumns);
      for (uint64_t row = 0; row + 1 < kRows; ++row) {  // the last row is never hit
        if (random() % (uint64_t{1} << (row * 10 / kRows)) != 0) continue;
        rows.push_back(row);
        if (last_hit[row] != 0) longest = std::max(longest, step - last_hit[row]);
        last_hit[row] = step;
        for (size_t c = 0; c < kColumns; ++c) {
          gradient.push_back(static_cast<float>(random() % 1001) / 500 - 1);
          dense[row * kColumns + c] = gradient.back();
        }
      }
      const double lr = LearningRate({.steps = kSteps}, static_cast<uint64_t>(step));
      direct.Step(rows, gradient, lr);
      sparse.Step(rows, gradient, lr);
      narrow.Step(rows, gradient, lr);
      narrow_sparse.Step(rows, gradient, lr);
      naive.Step(dense, lr);
      if (step % 50 != 0) continue;
      const std::vector<float> values = direct.Values();
      ASSERT_EQ(Bits(values), Bits(sparse.Values()));
      // Rows of bf16 are these, rounded: what is trained loses nothing.
      std::vector<float> rounded = values;
      for (float& value : rounded) value = FromBf16(HighOf(value));
      ASSERT_EQ(Bits(rounded), Bits(narrow.Values()));
      ASSERT_EQ(Bits(rounded), Bits(narrow_sparse.Values()));
      for (size_t i = 0; i < values.size(); ++i) {
        worst = std::max(worst, std::abs(values[i] - naive.w[i]));
      }
    }
    EXPECT_GT(longest, 256);
    EXPECT_LT(worst, tolerance);
    RecordProperty("worst_" + std::to_string(static_cast<int>(kind)), std::to_string(worst));
  }
}

// Goal: a step that decays weights to nothing, or so many that their product is below any double,
// does what dense updates do. (The quotient of two such products is not a number.)
TEST(ExactUpdates, SurviveADecayToZero) {
  for (const OptimizerKind kind : kOptimizers) {
    for (const double lr_of_step_2 : {0.9, 1.0}) {  // 1 - 1 * 1 = 0, the others 0.1
      TrainConfig config;
      config.optimizer = kind;
      config.weight_decay = 1;
      OneTable table(config, Table::Storage::kSparse);
      NaiveOptimizer naive(config, table.Values());
      const std::vector<float> ones(kColumns, 1.0f);
      for (int step = 1; step <= 1200; ++step) {
        const uint64_t row = step % 400 == 0 ? 1 : 0;
        std::vector<double> dense(kRows * kColumns);
        std::fill_n(dense.begin() + static_cast<ptrdiff_t>(row * kColumns), kColumns, 1.0);
        const double lr = static_cast<float>(step == 2 ? lr_of_step_2 : 0.9);
        table.Step({row}, ones, lr);
        naive.Step(dense, lr);
      }
      const std::vector<float> values = table.Values();
      for (size_t i = 0; i < values.size(); ++i) ASSERT_NEAR(values[i], naive.w[i], 1e-5) << i;
    }
  }
}

// Goal: pieces of an arena are zero, aligned and apart, small and large ones mixed, taken by
// several threads; slots keep what was written to them while they grow.
TEST(PageArenaTest, PiecesAreApart) {
  PageArena arena;
  ThreadPool pool(3);
  std::vector<std::vector<std::pair<uint64_t*, size_t>>> pieces(6);
  pool.ParallelFor(pieces.size(), [&](size_t job, int) {
    std::mt19937_64 random(job);
    for (int i = 0; i < 40; ++i) {
      const size_t words = 1 + random() % (size_t{1} << (i % 20));
      auto* piece = static_cast<uint64_t*>(arena.Take(words * sizeof(uint64_t)));
      EXPECT_EQ(reinterpret_cast<uintptr_t>(piece) % 64, 0u);
      EXPECT_TRUE(std::all_of(piece, piece + words, [](uint64_t word) { return word == 0; }));
      std::fill_n(piece, words, job * 1000 + static_cast<size_t>(i));
      pieces[job].push_back({piece, words});
    }
  });
  for (size_t job = 0; job < pieces.size(); ++job) {
    for (size_t i = 0; i < pieces[job].size(); ++i) {
      const auto [piece, words] = pieces[job][i];
      ASSERT_TRUE(
          std::all_of(piece, piece + words, [&](uint64_t w) { return w == job * 1000 + i; }));
    }
  }
  Slots slots(arena, 96, 5);
  for (size_t slot = 0; slot < 1000; ++slot) {
    slots.Reserve(slot + 1);
    std::fill_n(slots.at<uint32_t>(slot), 24, static_cast<uint32_t>(slot));
  }
  for (size_t slot = 0; slot < 1000; ++slot) {
    const uint32_t* words = slots.at<uint32_t>(slot);
    ASSERT_TRUE(std::all_of(words, words + 24, [&](uint32_t w) { return w == slot; }));
  }
  EXPECT_GE(slots.bytes(), 1000u * 96);
  EXPECT_LT(slots.bytes(), 1010u * 96);
}

// Goal: a split weight is its f32, bit for bit, whatever it is, and its visible half is the nearest
// bf16.
TEST(SplitWeights, KeepEveryBit) {
  std::mt19937 random(5);
  const auto check = [](uint32_t bits) {
    const float master = std::bit_cast<float>(bits);
    uint16_t high = 0;
    int16_t low = 0;
    SplitWeight(master, &high, &low);
    ASSERT_EQ(std::bit_cast<uint32_t>(JoinWeight(high, low)), bits) << std::hex << bits;
    if (std::abs(master) > 3e38f || std::isnan(master)) return;
    const double error = std::abs(double{FromBf16(high)} - double{master});
    const double step =
        std::abs(double{FromBf16(static_cast<uint16_t>(high ^ 1))} - double{FromBf16(high)});
    ASSERT_LE(error, step / 2 * 1.000001) << std::hex << bits;
  };
  for (uint32_t high = 0; high < 0x10000; high += 0x101) {
    for (const uint32_t low : {0u, 1u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu}) check(high << 16 | low);
  }
  for (int i = 0; i < 200'000; ++i) check(static_cast<uint32_t>(random()));
  for (const float nan : {std::nanf(""), -std::nanf(""), INFINITY - INFINITY}) {
    EXPECT_TRUE(std::isnan(FromBf16(HighOf(nan))));
  }
}

// Goal: with rows that go it is a map still, and their slots are given again.
TEST(RowIndexTest, GivesFreedSlotsAgain) {
  for (const uint64_t rows : {uint64_t{1} << 10, uint64_t{1} << 58}) {
    RowIndex index(rows);
    std::mt19937_64 random(rows);
    std::unordered_map<uint64_t, uint32_t> map;
    std::set<uint32_t> used;
    size_t most = 0;
    for (int i = 0; i < 200'000; ++i) {
      const uint64_t row = random() % (i / 1000 % 2 == 0 ? 900 : 100) * (rows / 1024 + 7) % rows;
      const auto found = map.find(row);
      ASSERT_EQ(index.Find(row), found == map.end() ? RowIndex::kNone : found->second);
      if (random() % 2 == 0) {
        ASSERT_EQ(index.Erase(row), found == map.end() ? RowIndex::kNone : found->second);
        if (found == map.end()) continue;
        used.erase(found->second);
        map.erase(found);
      } else if (found == map.end()) {
        const uint32_t slot = index.Insert(row);
        ASSERT_TRUE(used.insert(slot).second);
        ASSERT_EQ(index.rows()[slot], row);
        map.emplace(row, slot);
        most = std::max(most, map.size());
        ASSERT_EQ(index.size(), most) << "no slot is made while one is free";
      }
    }
    for (uint32_t slot = 0; slot < index.size(); ++slot) {
      ASSERT_EQ(index.rows()[slot] == RowIndex::kNoRow, !used.contains(slot));
    }
    index.Clear();
    for (const auto& [row, slot] : map) ASSERT_EQ(index.Find(row), RowIndex::kNone);
    ASSERT_EQ(index.Insert(5), 0u);
  }
}

// Goal: the index is a map from rows to slots in order of insertion, whatever is asked, through
// growth and after Clear, in its direct and in its hashed form.
TEST(RowIndexTest, IsAMap) {
  for (const uint64_t rows : {uint64_t{1} << 10, uint64_t{1} << 40, UINT64_MAX}) {
    RowIndex index(rows);
    std::mt19937_64 random(rows);
    for (int round = 0; round < 4; ++round) {
      std::unordered_map<uint64_t, uint32_t> map;
      const uint64_t spread = round % 2 == 0 ? rows : std::min<uint64_t>(rows, 700);
      for (int i = 0; i < 20'000; ++i) {
        const uint64_t row = random() % spread;
        index.Prefetch(row);
        const auto found = map.find(row);
        ASSERT_EQ(index.Find(row), found == map.end() ? RowIndex::kNone : found->second);
        if (random() % 2 == 0) continue;
        const uint32_t slot = static_cast<uint32_t>(map.size());
        const auto inserted = map.emplace(row, slot).first;
        ASSERT_EQ(index.Insert(row), inserted->second);
        ASSERT_EQ(index.size(), map.size());
      }
      for (size_t slot = 0; slot < index.size(); ++slot)
        ASSERT_EQ(map.at(index.rows()[slot]), slot);
      index.Clear();
      ASSERT_EQ(index.size(), 0u);
      for (const auto& [row, slot] : map) ASSERT_EQ(index.Find(row), RowIndex::kNone);
    }
  }
}

}  // namespace
}  // namespace mf
