// Goal: bucket statistics are exact. Counts of a known stream against sums made without them, for
// tables kept as arrays and sparsely; and through a server: what was contributed counts once, the
// same by pull as by pushdown, and nothing else counts.
#include "pserver/table/bucket_counts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <map>
#include <random>

#include "tests/support/request_fields.h"
#include "tests/support/shard_harness.h"

namespace mf {
namespace {

struct Naive {
  std::map<uint64_t, uint64_t> hits, last;

  TableBuckets Summarise(uint64_t rows, uint64_t step) const {
    TableBuckets table;
    table.rows = rows;
    const uint64_t bins = rows < 64 ? rows : 64;
    for (const auto& [row, count] : hits) {
      table.hits += count;
      if (count > table.top1) table.top1 = count;
      if (step - last.at(row) < 100) ++table.covered;
      table.bins[static_cast<size_t>(static_cast<double>(row) / static_cast<double>(rows) *
                                     static_cast<double>(bins))] += count;
    }
    table.dead = rows - hits.size();
    for (const auto& [row, count] : hits) {
      const double p = static_cast<double>(count) / static_cast<double>(table.hits);
      table.entropy -= p * std::log(p);
    }
    return table;
  }
};

void ExpectSame(const TableBuckets& actual, const TableBuckets& expected) {
  EXPECT_EQ(actual.rows, expected.rows);
  EXPECT_EQ(actual.hits, expected.hits);
  EXPECT_EQ(actual.covered, expected.covered);
  EXPECT_EQ(actual.dead, expected.dead);
  EXPECT_EQ(actual.top1, expected.top1);
  EXPECT_NEAR(actual.entropy, expected.entropy, 1e-12 * (1 + expected.entropy));
  for (size_t bin = 0; bin < kBucketBins; ++bin) {
    EXPECT_EQ(actual.bins[bin], expected.bins[bin]) << "bin " << bin;
  }
}

TEST(BucketCounts, AreThoseOfAKnownStream) {
  std::mt19937_64 random(7);
  for (const uint64_t rows :
       {1ull, 2ull, 16ull, 64ull, 256ull, 1ull << 16, 1ull << 20, 1ull << 32}) {
    BucketCounts counts(rows);
    Naive naive;
    ExpectSame(counts.Summarise(1), naive.Summarise(rows, 1));
    for (uint64_t step = 1; step <= 350; step += 1 + random() % 3) {
      for (int i = 0; i < 30; ++i) {
        // Old favourites, and rows met once, which leave the window.
        const uint64_t row = (i % 2 == 0 ? random() % 10 : random()) % rows;
        const uint64_t hits = 1 + random() % 5;
        counts.Add(row, hits, step);
        naive.hits[row] += hits;
        naive.last[row] = step;
      }
      if (step % 7 == 0) ExpectSame(counts.Summarise(step), naive.Summarise(rows, step));
    }
    ExpectSame(counts.Summarise(400), naive.Summarise(rows, 400));
  }
}

TEST(BucketCounts, EndsOfTheScale) {
  BucketCounts uniform(256), single(256);
  for (uint64_t row = 0; row < 256; ++row) uniform.Add(row, 1'000'000'007, 1);
  EXPECT_NEAR(uniform.Summarise(1).entropy_ratio(), 1, 1e-12);
  EXPECT_EQ(uniform.Summarise(1).coverage_ratio(), 1);
  EXPECT_EQ(uniform.Summarise(1).top1_ratio(), 1.0 / 256);
  EXPECT_EQ(uniform.Summarise(100).covered, 256u);
  EXPECT_EQ(uniform.Summarise(101).covered, 0u);
  EXPECT_EQ(uniform.Summarise(101).dead, 0u);
  single.Add(255, 5, 3);
  EXPECT_EQ(single.Summarise(3).entropy_ratio(), 0);
  EXPECT_EQ(single.Summarise(3).top1_ratio(), 1);
  EXPECT_EQ(single.Summarise(3).dead, 255u);
  EXPECT_EQ(single.Summarise(3).bins[63], 5u);
  EXPECT_EQ(BucketCounts(256).Summarise(3).top1_ratio(), 0);
}

// Goal: counts go on beyond 32 bits, also where they come to a multiple of 2^32.
TEST(BucketCounts, OfMoreThan32Bits) {
  for (const uint64_t rows : {1ull << 4, 1ull << 20}) {
    BucketCounts counts(rows);
    Naive naive;
    const auto add = [&](uint64_t row, uint64_t hits, uint64_t step) {
      counts.Add(row, hits, step);
      naive.hits[row] += hits;
      naive.last[row] = step;
    };
    for (uint64_t step = 1; step <= 9; ++step) add(5, 1'000'000'007, step);
    add(7, UINT32_MAX, 3);
    ExpectSame(counts.Summarise(9), naive.Summarise(rows, 9));
    add(7, 1, 4);
    ExpectSame(counts.Summarise(9), naive.Summarise(rows, 9));
    add(7, uint64_t{5} << 32, 5);
    add(6, 3, 5);
    ExpectSame(counts.Summarise(9), naive.Summarise(rows, 9));
  }
}

TEST(BucketSummary, MeanAndWorstTable) {
  std::vector<TableBuckets> tables(2);
  tables[0] = {.rows = 4, .hits = 10, .covered = 4, .dead = 0, .top1 = 5, .entropy = std::log(4)};
  tables[1] = {.rows = 4, .hits = 10, .covered = 1, .dead = 3, .top1 = 10, .entropy = 0};
  const LayerBuckets layer = SummariseLayer(tables);
  EXPECT_EQ(layer.hits, 20u);
  EXPECT_EQ(layer.dead_rows, 3u);
  EXPECT_EQ(layer.coverage.mean, 0.625);
  EXPECT_EQ(layer.coverage.worst, 0.25);
  EXPECT_EQ(layer.entropy.mean, 0.5);
  EXPECT_EQ(layer.entropy.worst, 0);
  EXPECT_EQ(layer.top1.mean, 0.75);
  EXPECT_EQ(layer.top1.worst, 1);
  EXPECT_EQ(layer.dead.mean, 1.5);
  EXPECT_EQ(layer.dead.worst, 3);
}

/// What a server says of a tensor.
std::vector<TableBuckets> Ask(ShardHarness& server, const TensorSpec& spec) {
  const Reply reply = server.Send(server.Make(BucketsRequest{spec.id}));
  EXPECT_EQ(reply.code, Code::kOk) << reply.message;
  std::vector<TableBuckets> tables(static_cast<size_t>(spec.tables));
  EXPECT_EQ(reply.payload.at(0).size(), tables.size() * sizeof(TableBuckets));
  std::memcpy(tables.data(), reply.payload[0].data(), reply.payload[0].size());
  return tables;
}

/// The stream of a contribution, without the server.
void Hit(const TensorSpec& spec, const Request& backward, uint64_t step, std::vector<Naive>* to) {
  to->resize(static_cast<size_t>(spec.tables));
  const std::byte* buckets = backward.payload[0].data();
  const size_t tokens = std::get<BackwardRequest>(backward.body).tokens;
  for (size_t k = 0; k < to->size(); ++k) {
    for (size_t t = 0; t < tokens; ++t) {
      const uint8_t row = LoadUnaligned<uint8_t>(buckets, k * tokens + t);
      ++(*to)[k].hits[row];
      (*to)[k].last[row] = step;
    }
  }
}

/// The same contribution as summed rows.
Request AsPush(const ShardHarness& server, const TensorSpec& spec, const Request& backward) {
  std::vector<Naive> naive;
  Hit(spec, backward, 0, &naive);
  std::vector<uint64_t> rows;
  std::vector<uint32_t> hits;
  for (size_t k = 0; k < naive.size(); ++k) {
    for (const auto& [row, count] : naive[k].hits) {
      rows.push_back(k * static_cast<uint64_t>(spec.rows) + row);
      hits.push_back(static_cast<uint32_t>(count));
    }
  }
  return server.Make(
      PushRequest{.at = server.open(),
                  .tensor = spec.id,
                  .micro_batch = std::get<BackwardRequest>(backward.body).micro_batch},
      {FrameOf(rows), FrameOf(hits),
       FrameOf(std::vector<float>(rows.size() * static_cast<size_t>(spec.columns)))});
}

TEST(Buckets, ContributionsCountOnceAndNothingElseDoes) {
  for (const bool pull : {false, true}) {
    for (const uint64_t memory_bytes : {uint64_t{1} << 30, uint64_t{0}}) {  // direct, sparse tables
      ShardHarness server(ShardConfig(), {.memory_bytes = memory_bytes});
      const TensorSpec& spec = server.spec("blocks.0.m1.tables");
      std::vector<Naive> naive;
      for (uint64_t step = 1; step <= 4; ++step) {
        for (uint32_t i = 0; i < 3; ++i) {
          server.MicroBatch(step, i);
          Hit(spec, server.Backward(spec, step, i), step, &naive);
        }
        for (uint32_t i = 0; i < 3; ++i) {  // reads, and all contributions again
          server.Send(server.Forward(spec, step, i));
          server.MicroBatch(step, i);
        }
        server.End(1e-2, step % 2 == 0);  // dropped steps were contributed, too
      }
      // The last step's come late, as summed rows, and one is not finite.
      const std::vector<uint32_t> order = {2, 0, 1};
      for (const uint32_t i : order) {
        Request request = server.Backward(spec, 9, i);
        Hit(spec, request, 5, &naive);
        if (pull) request = AsPush(server, spec, request);
        if (i == 1) {
          Buffer values(request.payload[2].size());
          std::memcpy(values.data(), request.payload[2].data(), values.size());
          values.as<float>()[3] = NAN;
          request.payload[2] = values;
        }
        EXPECT_EQ(server.Send(request).code, Code::kOk);
        EXPECT_EQ(server.Send(request).code, Code::kOk);
      }
      const std::vector<TableBuckets> tables = Ask(server, spec);
      for (size_t k = 0; k < tables.size(); ++k) {
        ExpectSame(tables[k], naive[k].Summarise(static_cast<uint64_t>(spec.rows), 5));
      }
      // A run that goes back counts from zero.
      EXPECT_EQ(server.Send(server.Rollback(server.epoch + 1, 0)).code, Code::kOk);
      for (const TableBuckets& table : Ask(server, spec)) EXPECT_EQ(table.hits, 0u);
    }
  }
}

// Goal: observers see the statistics of a run and read its finished state, and can do nothing else.
TEST(Buckets, Observers) {
  ShardHarness server(ShardConfig(), {.recover = false});
  const Request hello = server.Make(HelloRequest{.shards = 1});
  EXPECT_EQ(server.Send(hello).code, Code::kUnavailable);  // and no run has come of it
  server.session = As<HelloReply>(server.Send(server.Hello())).session;
  const Reply observer = server.Send(hello);
  ASSERT_EQ(observer.code, Code::kOk) << observer.message;
  const auto& [session, state] = As<HelloReply>(observer);
  EXPECT_EQ(state.description, std::get<HelloRequest>(server.Hello().body).description);
  Request request = server.Make(BucketsRequest{server.spec("blocks.0.m1.tables").id});
  request.session = session;
  EXPECT_EQ(server.Send(request).code, Code::kUnavailable);  // before recovery
  ASSERT_EQ(server.Send(server.Rollback(server.epoch, 0)).code, Code::kOk);
  EXPECT_EQ(server.Send(request).code, Code::kOk);
  request.body = BucketsRequest{server.spec("embed.weight").id};
  EXPECT_EQ(server.Send(request).code, Code::kInvalid);
  for (const Op op : {Op::kPull, Op::kForward}) {
    const TensorSpec& m1 = server.spec("blocks.0.m1.tables");
    Request read = op == Op::kPull ? server.PullAll(m1) : server.Forward(m1, 1, 0);
    const auto at = [&](const ReadState& read_state) {
      if (auto* pull = std::get_if<PullRequest>(&read.body)) {
        pull->at = read_state;
      } else {
        std::get<ForwardRequest>(read.body).at = read_state;
      }
    };
    at(server.finished());
    const Reply of_worker = server.Send(read);
    read.session = session;
    const Reply of_observer = server.Send(read);
    ASSERT_EQ(of_observer.code, Code::kOk) << of_observer.message;
    ASSERT_EQ(of_observer.payload[0].size(), of_worker.payload[0].size());
    EXPECT_EQ(0, std::memcmp(of_observer.payload[0].data(), of_worker.payload[0].data(),
                             of_worker.payload[0].size()));
    at(server.open());  // this marks the rows that a step has met
    EXPECT_EQ(server.Send(read).code, Code::kInvalid);
  }
  Request rows = server.Make(ListRowsRequest{.at = server.finished(), .row_count = 1});
  rows.session = session;
  EXPECT_EQ(server.Send(rows).code, Code::kOk);
  for (int op = 0; op < kOpCount; ++op) {
    const Op may[] = {Op::kHello, Op::kStatus,  Op::kBuckets,
                      Op::kPull,  Op::kForward, Op::kListRows};
    if (std::find(std::begin(may), std::end(may), static_cast<Op>(op)) != std::end(may)) continue;
    Request other = server.Make(EmptyRequest(static_cast<Op>(op)));
    other.session = session;
    EXPECT_EQ(server.Send(other).code, Code::kInvalid) << OpName(other.op());
  }
  Request status = server.Make(StatusRequest{});
  status.session = session;
  EXPECT_EQ(As<StatusReply>(server.Send(status)).state.finished.epoch, server.epoch);
  // Many observers forget each other, but no worker.
  for (int i = 0; i < 300; ++i) EXPECT_EQ(server.Send(hello).code, Code::kOk);
  EXPECT_EQ(server.Send(status).code, Code::kNotJoined);
  EXPECT_EQ(server.Send(server.Make(StatusRequest{})).code, Code::kOk);
}

}  // namespace
}  // namespace mf
