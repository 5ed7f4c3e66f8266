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

/// How often each of some rows was hit.
using Counts = std::map<uint64_t, uint32_t>;

/// What snapshots of all servers hold, one after the other.
struct Disk {
  std::map<uint64_t, std::vector<std::byte>> rows, waiting;
  bool operator==(const Disk&) const = default;
};

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

  /// `counts`: of the same rows; none: one hit each.
  void Contribute(uint32_t micro_batch, const Hits& hits, const Counts& counts = {}) {
    std::vector<std::vector<uint64_t>> rows(size());
    std::vector<std::vector<uint32_t>> numbers(size());
    std::vector<std::vector<float>> values(size());
    for (const auto& [row, gradient] : hits) {
      const size_t owner = OwnerOf(row);
      rows[owner].push_back(row);
      if (!counts.empty()) numbers[owner].push_back(counts.at(row));
      values[owner].insert(values[owner].end(), gradient.begin(), gradient.end());
    }
    for (size_t i = 0; i < size(); ++i) {
      Contribution c;
      c.is_push = true;
      c.rows = BufferOf(rows[i]);
      c.values = BufferOf(values[i]);
      c.hits = FrameOf(numbers[i]);
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
  /// Brings `disk` from a snapshot of clock time `since` (-1: none) to one of now, whose time it
  /// gives.
  int64_t CutInto(Disk* disk, int64_t since) {
    std::set<uint64_t> told;
    for (const auto& shard : shards_) {
      shard->BeginCut(since);
      uint64_t row = 0;
      bool removed = false;
      const auto take = [&](std::map<uint64_t, std::vector<std::byte>>& entries,
                            const std::vector<std::byte>& state) {
        if (removed) {
          entries.erase(row);
        } else {
          entries[row] = state;
        }
      };
      std::vector<std::byte> state(shard->row_bytes());
      for (uint64_t last = 0; shard->NextCutRow(&row, &removed, state.data()); last = row) {
        EXPECT_TRUE(last == 0 || last < row);
        EXPECT_TRUE(told.insert(row).second) << "two servers have it";
        take(disk->rows, state);
      }
      state.resize(TensorShard::kWaitingBytes);
      for (uint64_t last = 0; shard->NextCutWaiting(&row, &removed, state.data()); last = row) {
        EXPECT_TRUE(last == 0 || last < row);
        take(disk->waiting, state);
      }
      shard->EndCut();
    }
    return clock_.now++;
  }
  std::map<uint64_t, std::vector<std::byte>> Cut() {
    Disk disk;
    CutInto(&disk, -1);
    return disk.rows;
  }
  void Restore(const std::map<uint64_t, std::vector<std::byte>>& entries,
               const UpdateHistory& history) {
    Restore(Disk{entries, {}}, history);
  }
  void Restore(const Disk& disk, const UpdateHistory& history) {
    history_ = history;
    for (const auto& [row, state] : disk.rows) {
      for (size_t i = 0; i < size(); ++i) {
        const Status restored = shards_[i]->Restore(row, state.data(), state.size());
        EXPECT_EQ(restored.ok(), i == OwnerOf(row)) << restored.message();
      }
    }
    for (const auto& [row, state] : disk.waiting) {
      for (size_t i = 0; i < size(); ++i) {
        const auto restored = shards_[i]->RestoreWaiting(row, state.data(), state.size());
        EXPECT_EQ(restored.ok(), i == OwnerOf(row));
      }
    }
  }
  template <class Number>
  uint64_t Sum(Number number) const {
    uint64_t sum = 0;
    for (const auto& shard : shards_) sum += number(*shard);
    return sum;
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
  ChangeClock clock_;
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

/// Which keys have rows, said simply: by the step, one after the other.
class Model {
 public:
  Model(int64_t admit, int64_t most, int64_t expire)
      : admit_(static_cast<uint64_t>(admit)), most_(most / kKeyRanges), expire_(expire) {}

  /// After a step that hit these; the rows whose gradients count.
  std::set<uint64_t> Step(const Counts& counts) {
    ++step_;
    std::set<uint64_t> trained;
    for (const auto& [row, count] : counts) {
      const uint64_t hits = count + (waiting.contains(row) ? waiting[row].first : 0);
      if (rows.contains(row) || hits >= admit_) {
        admitted += !rows.contains(row);
        rows[row] = step_;
        waiting.erase(row);
        trained.insert(row);
      } else {
        waiting[row] = {hits, step_};
      }
    }
    for (uint64_t range = 0; range < kKeyRanges; ++range) {
      std::set<std::pair<int64_t, uint64_t>> oldest;
      for (const auto& [row, state] : waiting) {
        if (row >> 58 == range) oldest.emplace(state.second, row);
      }
      while (static_cast<int64_t>(oldest.size()) > most_) {
        waiting.erase(oldest.begin()->second);
        oldest.erase(oldest.begin());
      }
    }
    if (expire_ > 0 && step_ > expire_ && step_ % std::max<int64_t>(1, expire_ / 16) == 0) {
      expired +=
          std::erase_if(rows, [&](const auto& row) { return row.second + expire_ <= step_; });
      std::erase_if(waiting, [&](const auto& row) { return row.second.second + expire_ <= step_; });
    }
    return trained;
  }

  std::map<uint64_t, int64_t> rows;                          // to the step that hit them last
  std::map<uint64_t, std::pair<uint64_t, int64_t>> waiting;  // to hits, and that step
  uint64_t admitted = 0, expired = 0;

 private:
  const uint64_t admit_;
  const int64_t most_, expire_;
  int64_t step_ = 0;
};

// Goal: keys have rows from their n-th hit on until no step has hit them for long, as the model
// says, for any number of servers, also through snapshots, of all and of what has changed, on
// servers of another number.
TEST(KeyedTensor, KeysAreAdmittedAndExpire) {
  struct Case {
    int64_t admit, waiting, expire;
  };
  for (const Case& c : {Case{3, 64 * 4, 0}, Case{0, 0, 7}, Case{2, 1 << 20, 5}, Case{4, 64, 20}}) {
    TensorSpec spec = Keyed(OptimizerKind::kRowAdam);
    spec.admit_hits = c.admit;
    spec.waiting_keys = c.waiting;
    spec.expire_steps = c.expire;
    Model model(std::max<int64_t>(1, c.admit), c.waiting, c.expire);
    std::mt19937_64 random(static_cast<uint64_t>(c.admit * 100 + c.expire));
    std::vector<std::unique_ptr<Servers>> clusters;
    std::vector<int64_t> since;
    std::vector<Disk> disks;
    for (const size_t shards : {1, 2, 3}) {
      clusters.push_back(std::make_unique<Servers>(spec, shards, 2));
      since.push_back(-1);
      disks.emplace_back();
    }
    uint64_t admitted_before = 0, expired_before = 0;  // by servers that are there no more
    for (int step = 1; step <= 120; ++step) {
      Counts all;
      Hits sums;
      for (uint32_t micro_batch = 0; micro_batch < kMicroBatches; ++micro_batch) {
        Hits hits = DrawHits(random);
        Counts counts;
        for (auto& [row, gradient] : hits) {
          counts[row] = random() % 4 == 0 ? 2 : 1;
          all[row] += counts[row];
          std::vector<float>& sum = sums[row];
          sum.resize(kColumns);
          for (size_t column = 0; column < kColumns; ++column) sum[column] += gradient[column];
        }
        for (const auto& servers : clusters) servers->Contribute(micro_batch, hits, counts);
      }
      const std::set<uint64_t> trained = model.Step(all);
      double squares = 0;
      for (const uint64_t row : trained) {
        for (const float number : sums[row]) squares += double{number} * number;
      }
      std::vector<uint64_t> rows;
      for (const auto& [row, last] : model.rows) rows.push_back(row);
      for (const auto& servers : clusters) {
        EXPECT_NEAR(servers->End(0.1), squares, 1e-5 * squares) << step;
        ASSERT_EQ(servers->List(0, kLast), rows) << "step " << step;
        ASSERT_EQ(servers->updated_count(), rows.size());
        ASSERT_EQ(servers->Sum([](const auto& shard) { return shard.waiting_count(); }),
                  c.admit > 1 ? model.waiting.size() : 0);
      }
      const auto told = [&](auto number) { return clusters[0]->Sum(number); };
      EXPECT_EQ(admitted_before + told([](const auto& shard) { return shard.admitted(); }),
                c.admit > 1 ? model.admitted : 0);
      EXPECT_EQ(expired_before + told([](const auto& shard) { return shard.expired(); }),
                model.expired);
      if (random() % 4 != 0) continue;
      for (size_t i = 0; i < clusters.size(); ++i) {
        since[i] = clusters[i]->CutInto(&disks[i], since[i]);
        ASSERT_EQ(disks[i], disks[0]);
      }
      Disk whole;
      clusters[1]->CutInto(&whole, -1);
      ASSERT_EQ(whole, disks[0]) << "what has changed, and all";
      since[1] = -1;
      disks[1] = {};
      if (random() % 3 != 0) continue;
      admitted_before += told([](const auto& shard) { return shard.admitted(); });
      expired_before += told([](const auto& shard) { return shard.expired(); });
      const UpdateHistory history = clusters[0]->history();
      for (size_t i = 0; i < clusters.size(); ++i) {
        clusters[i] = std::make_unique<Servers>(spec, 1 + random() % 5, 1);
        clusters[i]->Restore(disks[0], history);
        disks[i] = disks[0];
        since[i] = 0;
      }
    }
    EXPECT_GT(model.admitted, 20u);
    EXPECT_EQ(c.expire > 0, model.expired > 0);
    std::vector<uint64_t> rows;
    for (const auto& [row, last] : model.rows) rows.push_back(row);
    rows.push_back(kLast - 5);
    std::sort(rows.begin(), rows.end());
    for (const auto& servers : clusters) {
      EXPECT_EQ(Bits(servers->Pull(rows)), Bits(clusters[0]->Pull(rows)));
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
  EXPECT_TRUE(refused([](TensorSpec& t) { t.admit_hits = 2; })) << "no bound for keys that wait";
  EXPECT_TRUE(refused([](TensorSpec& t) { t.waiting_keys = 64; })) << "none waits";
  EXPECT_TRUE(refused([](TensorSpec& t) { t.expire_steps = -1; }));
  EXPECT_TRUE(refused([](TensorSpec& t) {
    t.expire_steps = 5;
    t.optimizer.sparse_update = SparseUpdate::kExact;
  }));
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
