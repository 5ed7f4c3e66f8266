// Goal: one configuration gives one result. The exported model and the loss, rate and gradient norm
// of every step are the same to the last bit for any number of servers, of their threads and of the
// worker's, any number of micro-batches in flight, tables addressed directly or through an index,
// and with requests and replies that come twice and out of order.
#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "tests/support/faulty_transport.h"
#include "tests/support/training_case.h"

namespace mf {
namespace {

// The sanitizers look for races and overruns, which show in a few steps, not for wrong bits.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int64_t kSteps = 8;
#else
constexpr int64_t kSteps = 60;
#endif
constexpr uint64_t kTiny = 1;  // bytes of memory: no memory layer is addressed directly

/// How one run of a configuration is spread out.
struct Topology {
  int shards = 1;
  int server_threads = 1;
  int threads = 1;
  int64_t in_flight = 1;
  uint64_t memory_bytes = 0;
  uint64_t fault_seed = 0;  // 0: a transport without faults

  std::string Describe() const {
    return std::to_string(shards) + " servers x " + std::to_string(server_threads) +
           " threads, worker x " + std::to_string(threads) + " threads, " +
           std::to_string(in_flight) + " in flight, " +
           (memory_bytes == kTiny ? "sparse" : "direct") + ", faults " + std::to_string(fault_seed);
  }
};

TrainingOutcome TrainOnce(TrainingFolder& folder, Config config, const Topology& topology) {
  config.exchange.in_flight = topology.in_flight;
  TrainOptions options;
  options.config = config;
  options.data = folder.text();
  options.shards = topology.shards;
  options.threads = topology.threads;
  options.server_threads = topology.server_threads;
  options.memory_bytes = topology.memory_bytes;
  const auto counts = std::make_shared<FaultCounts>();
  if (topology.fault_seed != 0) {
    options.wrap_transport = [&](std::unique_ptr<ClientTransport> inner) {
      return MakeFaulty(std::move(inner), {.seed = topology.fault_seed}, counts);
    };
  }
  const TrainingOutcome outcome = TrainAndRead(options, folder.NewRun());
  if (topology.fault_seed != 0) {
    EXPECT_GT(counts->duplicated_requests, 0u);
    EXPECT_GT(counts->duplicated_replies, 0u);
    EXPECT_GT(counts->overtaken, 0u);
  }
  return outcome;
}

/// What is trained. `every` names the sets whose whole matrix of topologies is run; the others run
/// a few that differ in everything.
struct Variant {
  std::string name;
  bool every = false;
  std::function<void(Config&)> change;
};

std::vector<Topology> Topologies(bool every) {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  every = false;
#endif
  std::vector<Topology> topologies;
  if (!every) {
    topologies.push_back({2, 2, 1, 3, 0, 21});
    topologies.push_back({3, 1, 2, 2, kTiny, 22});
    return topologies;
  }
  uint64_t number = 0;
  for (const int shards : {1, 2, 3}) {
    for (const int server_threads : {1, 2}) {
      for (const int threads : {1, 2}) {
        // The rest goes round, so that every value meets every number of servers.
        topologies.push_back({shards, server_threads, threads,
                              static_cast<int64_t>(1 + (number + number / 4) % 3),
                              (server_threads + threads) % 2 == 0 ? kTiny : 0, 1 + number});
        ++number;
      }
    }
  }
  return topologies;
}

class OneResultTest : public testing::TestWithParam<Variant> {};

TEST_P(OneResultTest, WhateverTheTopology) {
  TrainingFolder folder;
  Config config = SmallTrainingConfig(kSteps);
  GetParam().change(config);
  ASSERT_TRUE(CheckConfig(config).ok());
  const TrainingOutcome expected = TrainOnce(folder, config, {});
  for (const Topology& topology : Topologies(GetParam().every)) {
    SCOPED_TRACE(topology.Describe());
    const TrainingOutcome outcome = TrainOnce(folder, config, topology);
    EXPECT_EQ(outcome.metrics, expected.metrics);
    EXPECT_EQ(outcome.model, expected.model);
  }
}

const Variant kVariants[] = {
    {"Pushdown", true, [](Config& c) { c.exchange.mode = ExchangeMode::kPushdown; }},
    {"Pull", true, [](Config& c) { c.exchange.mode = ExchangeMode::kPull; }},
    {"PushdownTwoProbes", false,
     [](Config& c) {
       c.exchange.mode = ExchangeMode::kPushdown;
       c.model.probes = 2;
     }},
    {"PullTwoProbes", false,
     [](Config& c) {
       c.exchange.mode = ExchangeMode::kPull;
       c.model.probes = 2;
       c.model.norm = NormKind::kLayerNorm;
     }},
    {"Bf16", false,
     [](Config& c) {
       c.exchange.mode = ExchangeMode::kPushdown;
       c.exchange.wire = Wire::kBf16;
     }},
    {"LazySoftmax", false,
     [](Config& c) {
       c.train.sparse_update = SparseUpdate::kLazy;
       c.model.score = Score::kSoftmax;
     }},
    {"Sgd", false, [](Config& c) { c.train.optimizer = OptimizerKind::kSgd; }},
    {"Adagrad", false, [](Config& c) { c.train.optimizer = OptimizerKind::kAdagrad; }},
    {"RowsOfBf16", true,
     [](Config& c) {
       c.exchange.mode = ExchangeMode::kPushdown;
       c.model.table_dtype = RowType::kBf16;
     }},
    {"RowsOfBf16Pulled", false,
     [](Config& c) {
       c.exchange.mode = ExchangeMode::kPull;
       c.model.table_dtype = RowType::kBf16;
       c.train.optimizer = OptimizerKind::kAdagrad;
     }},
    {"Dense", false, [](Config& c) { c.model.projection = Projection::kDense; }},
};

INSTANTIATE_TEST_SUITE_P(Variants, OneResultTest, testing::ValuesIn(kVariants),
                         [](const auto& entry) { return entry.param.name; });

// Goal: the comparison above can fail: another seed gives another model.
TEST(OneResultSeedTest, AnotherSeedIsAnotherResult) {
  TrainingFolder folder;
  Config config = SmallTrainingConfig(kSteps);
  config.train.steps = 2;
  const TrainingOutcome one = TrainOnce(folder, config, {});
  config.train.seed = 2;
  const TrainingOutcome other = TrainOnce(folder, config, {});
  EXPECT_NE(one.metrics, other.metrics);
  EXPECT_NE(one.model, other.model);
}

}  // namespace
}  // namespace mf
