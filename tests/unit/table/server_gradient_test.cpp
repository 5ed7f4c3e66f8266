// Goal: the whole float model, its tables on servers, has the gradients of the double oracle. They
// are seen from outside, as what one SGD step without decay and clipping does to every number of
// every tensor, so hashing, wire, gathers, dots, row sums, cutting over servers and the step itself
// are all in between. (worker/model alone: model_test.)
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <ostream>
#include <string>

#include "tests/support/cluster.h"
#include "tests/support/model_cases.h"
#include "tests/support/oracle/oracle.h"

namespace mf {
namespace {

constexpr double kEps = std::numeric_limits<float>::epsilon();
// Relative to the largest number of a tensor. Below model_test's, for the smaller rows
// (Parameters); what the step adds is below one eps. Largest seen: 80 eps.
constexpr double kTolerance = 400 * kEps;
constexpr size_t kSequences = 3;
constexpr size_t kLength = 67;  // 201 tokens: 4 chunks of the worker, with a tail
// Makes the step so large that what was there before costs no digit of the difference.
constexpr double kRate = 1 << 20;

ModelConfig Shape() {
  ModelConfig shape;
  shape.d = 48;  // 3 column blocks
  shape.layers = 2;
  shape.heads = 2;
  shape.K = 6;
  shape.tau = 8;  // with expanding bits, two bytes an index
  shape.sequence = kLength;
  shape.vocabulary = 37;
  return shape;
}

Config OneStepConfig(const ModelCase& model, ExchangeMode mode) {
  Config config = model.config;
  config.train.micro_batches = 1;
  config.train.batch = kSequences;
  config.train.optimizer = OptimizerKind::kSgd;
  config.train.weight_decay = 0;
  config.train.clip = 0;
  config.exchange.mode = mode;
  return config;
}

/// (before - after) / rate against `expected`: largest difference over the largest expected number.
double RelativeError(const std::vector<float>& before, const std::vector<float>& after,
                     const std::vector<double>& expected) {
  double worst = 0;
  double largest = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double gradient =
        (static_cast<double>(before[i]) - static_cast<double>(after[i])) / kRate;
    const double difference = std::abs(gradient - expected[i]);
    if (!(difference <= worst)) worst = difference;  // keeps NaN
    largest = std::max(largest, std::abs(expected[i]));
  }
  return worst / largest;
}

/// Rows of a quarter of model_test's size: this model is twice as wide, and with scaled scores its
/// layers would otherwise outgrow the residual stream and multiply rounding errors by thousands.
DenseTensors Parameters(const std::vector<TensorSpec>& tensors) {
  DenseTensors values = RandomParameters(tensors, 7);
  for (const TensorSpec& tensor : tensors) {
    if (tensor.kind != TensorKind::kMemory) continue;
    for (float& value : values[tensor.id]) value *= 0.25f;
  }
  return values;
}

struct ServerCase {
  ModelCase model;
  ExchangeMode mode;
  Cluster::Options servers;
  friend void PrintTo(const ServerCase& test, std::ostream* out) { *out << test.model.name; }
};

/// Every model of the sweep in both modes; servers, threads and storage go round.
std::vector<ServerCase> Cases() {
  std::vector<ServerCase> cases;
  int number = 0;
  for (const ModelCase& model : ModelSweep(Shape())) {
    for (const ExchangeMode mode : {ExchangeMode::kPushdown, ExchangeMode::kPull}) {
      const bool dense = model.config.model.projection == Projection::kDense;
      if (dense && mode == ExchangeMode::kPull) continue;  // no memory layer: nothing to choose
      ServerCase next{model, mode, {}};
      next.model.name += dense ? "" : mode == ExchangeMode::kPull ? "Pull" : "Pushdown";
      next.servers.shards = 1 + number % 3;
      next.servers.server_threads = 1 + number / 3 % 2;
      next.servers.threads = 2;
      if (number % 4 == 1) next.servers.memory_bytes = 1;  // sparse
      cases.push_back(next);
      ++number;
    }
    number += 1;  // so that a mode does not always meet the same servers
  }
  return cases;
}

class ServerGradientTest : public testing::TestWithParam<ServerCase> {};

TEST_P(ServerGradientTest, AgreesWithOracle) {
  const ServerCase& test = GetParam();
  Cluster cluster(OneStepConfig(test.model, test.mode), test.servers);
  cluster.Write(Parameters(cluster.tensors()));
  const DenseTensors before = cluster.Read();
  const TokenBatch batch = RandomBatch(cluster.config(), kSequences, kLength, 11);
  oracle::Options options;
  options.loss_scale = 1.0 / 512;
  const Cluster::MicroBatch run = cluster.Train(batch, options.loss_scale);
  cluster.EndStep(kRate);
  const DenseTensors after = cluster.Read();

  options.replay = &run.buckets;
  const oracle::Result expected =
      oracle::Run(cluster.config(), cluster.tensors(), ToDouble(before), batch, options);
  EXPECT_NEAR(run.loss_sum, expected.loss_sum, kTolerance * expected.loss_sum);
  double worst = 0;
  for (const TensorSpec& tensor : cluster.tensors()) {
    const uint32_t id = tensor.id;
    const double error = RelativeError(before[id], after[id], expected.gradients[id]);
    EXPECT_LT(error, kTolerance) << tensor.name;
    worst = std::max(worst, error);
  }
  std::printf("worst error %.0f eps\n", worst / kEps);
}

INSTANTIATE_TEST_SUITE_P(Sweep, ServerGradientTest, testing::ValuesIn(Cases()),
                         [](const auto& entry) { return entry.param.model.name; });

}  // namespace
}  // namespace mf
