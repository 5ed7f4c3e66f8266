// The float model against the double oracle: log-probabilities, logits, loss and the gradient of every
// tensor, the tables included; and the same bits for any number of threads.
//
// The oracle replays the buckets that the float model chose, so that both differentiate the same
// function; where its own choice differs, z must have been within rounding of the border.
#include "worker/model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/model_cases.h"
#include "tests/support/naive_exchange.h"
#include "tests/support/oracle.h"

namespace mf {
namespace {

constexpr double kEps = std::numeric_limits<float>::epsilon();
// Relative to the largest number of a tensor. Each operation rounds by about eps; scaled scores multiply
// what came before by sim, around 7 here, in each of the six layers that follow one another, and make
// attention sharp. Largest seen: 286 eps for scaled scores, 12 eps for softmax and the dense baseline.
constexpr double kTolerance = 1000 * kEps;
// z is the result of a norm over numbers that passed the blocks below.
constexpr double kBorder = 200 * kEps;

ModelConfig SmallShape() {
  ModelConfig shape;
  shape.d = 24;
  shape.layers = 2;
  shape.heads = 2;  // 12 numbers a head, the first 2 rotated
  shape.K = 3;
  shape.tau = 8;    // with expanding bits, two bytes an index
  shape.sequence = 70;
  shape.vocabulary = 37;
  return shape;
}

/// One run of the float model.
struct FloatRun {
  double loss_sum = 0;
  DenseTensors gradients;  // by tensor id, tables included
  std::vector<float> logprobs;
  std::vector<float> last_logits;
  oracle::Buckets buckets;
};

class Fixture {
 public:
  explicit Fixture(const Config& c) : config(c), tensors(TensorsOf(config)) {
    parameters = RandomParameters(tensors, 7);
    batch = RandomBatch(config, 3, 67, 11);  // 201 tokens: 4 chunks, 2 query tiles, both with tails
  }

  FloatRun Run(int threads) const {
    ThreadPool pool(threads);
    const Model model(config, tensors, pool);
    DenseTensors dense(tensors.size());
    DenseTensors tables(tensors.size());
    for (const TensorSpec& tensor : tensors) {
      (tensor.kind == TensorKind::kMemory ? tables : dense)[tensor.id] = parameters[tensor.id];
    }
    NaiveExchange exchange(tensors, tables);
    Model::Workspace workspace;
    FloatRun run;
    EXPECT_TRUE(model.Score(dense, batch, exchange, workspace, &run.logprobs).ok());
    EXPECT_TRUE(model.LastLogits(dense, batch, exchange, workspace, &run.last_logits).ok());
    EXPECT_TRUE(model.Train(dense, batch, scale, exchange, workspace, &run.loss_sum,
                            &run.gradients).ok());
    run.buckets = exchange.buckets();
    for (const TensorSpec& tensor : tensors) {
      if (tensor.kind != TensorKind::kMemory) continue;
      EXPECT_TRUE(run.gradients[tensor.id].empty()) << tensor.name;
      run.gradients[tensor.id] = exchange.gradients()[tensor.id];
    }
    return run;
  }

  const Config config;
  const std::vector<TensorSpec> tensors;
  const double scale = 1.0 / 512;
  DenseTensors parameters;
  TokenBatch batch;
};

/// Largest difference relative to the largest expected number.
double RelativeError(const std::vector<float>& got, const std::vector<double>& expected) {
  if (got.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  double largest = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = std::abs(static_cast<double>(got[i]) - expected[i]);
    if (!(difference <= worst)) worst = difference;  // keeps NaN
    largest = std::max(largest, std::abs(expected[i]));
  }
  return worst / largest;
}

class ModelTest : public testing::TestWithParam<ModelCase> {};

TEST_P(ModelTest, AgreesWithOracle) {
  const Fixture fixture(GetParam().config);
  const FloatRun run = fixture.Run(2);
  oracle::Options options;
  options.loss_scale = fixture.scale;
  options.replay = &run.buckets;
  const oracle::Result expected = oracle::Run(fixture.config, fixture.tensors,
                                              ToDouble(fixture.parameters), fixture.batch, options);

  double worst = RelativeError(run.logprobs, expected.logprobs);
  EXPECT_LT(worst, kTolerance) << "logprobs";
  EXPECT_NEAR(run.loss_sum, expected.loss_sum, kTolerance * expected.loss_sum);
  const size_t vocabulary = static_cast<size_t>(fixture.config.model.vocabulary);
  std::vector<double> last;
  for (size_t s = 1; s <= fixture.batch.sequences; ++s) {
    const auto end = expected.logits.begin() +
                     static_cast<std::ptrdiff_t>(s * fixture.batch.length * vocabulary);
    last.insert(last.end(), end - static_cast<std::ptrdiff_t>(vocabulary), end);
  }
  EXPECT_LT(RelativeError(run.last_logits, last), kTolerance) << "last logits";
  for (const TensorSpec& tensor : fixture.tensors) {
    const double error = RelativeError(run.gradients[tensor.id], expected.gradients[tensor.id]);
    EXPECT_LT(error, kTolerance) << tensor.name;
    worst = std::max(worst, error);
  }

  size_t other = 0;
  size_t all = 0;
  for (const TensorSpec& tensor : fixture.tensors) {
    const auto& choice = expected.choice[tensor.id];
    const size_t tokens = fixture.batch.tokens();
    const size_t probes = static_cast<size_t>(fixture.config.model.probes);
    for (size_t at = 0; at < choice.size(); ++at, ++all) {
      if (choice[at] == run.buckets[tensor.id][at]) continue;
      ++other;
      const size_t table = at / tokens / probes;
      // Two probes may also trade places, which changes no sum: the border is then between them.
      if (probes < 3) {
        EXPECT_LT(expected.border[tensor.id][table * tokens + at % tokens], kBorder) << tensor.name;
      }
    }
  }
  EXPECT_LE(other, all / 1000);
  std::printf("worst error %.0f eps; %zu of %zu buckets differ from double\n", worst / kEps, other,
              all);
}

TEST_P(ModelTest, SameBitsForAnyThreads) {
  const Fixture fixture(GetParam().config);
  const FloatRun one = fixture.Run(1);
  for (const int threads : {2, 3}) {
    const FloatRun many = fixture.Run(threads);
    EXPECT_EQ(one.loss_sum, many.loss_sum);
    EXPECT_EQ(one.logprobs, many.logprobs);
    EXPECT_EQ(one.last_logits, many.last_logits);
    EXPECT_EQ(one.gradients, many.gradients);
    EXPECT_EQ(one.buckets, many.buckets);
  }
}

INSTANTIATE_TEST_SUITE_P(Sweep, ModelTest, testing::ValuesIn(ModelSweep(SmallShape())),
                         [](const auto& entry) { return entry.param.name; });

TEST(ModelBatchTest, RefusesWhatDoesNotFit) {
  Config config;
  config.model = SmallShape();
  Fixture fixture(config);
  ThreadPool pool(1);
  const Model model(fixture.config, fixture.tensors, pool);
  NaiveExchange exchange(fixture.tensors, DenseTensors(fixture.tensors.size()));
  Model::Workspace workspace;
  std::vector<float> out;
  const auto code = [&](const TokenBatch& batch) {
    return model.Score(fixture.parameters, batch, exchange, workspace, &out).code();
  };
  TokenBatch long_batch = RandomBatch(fixture.config, 1, 71, 3);
  EXPECT_EQ(code(long_batch), Code::kInvalid);
  TokenBatch strange = RandomBatch(fixture.config, 1, 5, 3);
  strange.inputs[2] = 37;
  EXPECT_EQ(code(strange), Code::kInvalid);
  TokenBatch uneven = RandomBatch(fixture.config, 1, 5, 3);
  uneven.targets.pop_back();
  EXPECT_EQ(code(uneven), Code::kInvalid);
  EXPECT_EQ(code(TokenBatch()), Code::kInvalid);
}

}  // namespace
}  // namespace mf
