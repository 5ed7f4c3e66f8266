// The float model against the double oracle: log-probabilities, logits, loss and the gradient of
// every tensor, the tables included; and the same bits for any number of threads.
//
// The oracle replays the buckets that the float model chose, so that both differentiate the same
// function; where its own choice differs, z must have been within rounding of the border.
#include "worker/model/model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

#include "tests/support/model_cases.h"
#include "tests/support/naive_exchange.h"
#include "tests/support/oracle/oracle.h"
#include "worker/config/tensors.h"

namespace mf {
namespace {

constexpr double kEps = std::numeric_limits<float>::epsilon();
// Relative to the largest number of a tensor. Each operation rounds by about eps; scaled scores
// multiply what came before by sim, around 7 here, in each of the six layers that follow one
// another, and make attention sharp. Largest seen: 286 eps for scaled scores, 12 eps for softmax
// and the dense baseline.
constexpr double kTolerance = 1000 * kEps;
// z is the result of a norm over numbers that passed the blocks below.
constexpr double kBorder = 200 * kEps;

/// Of a pass over whole sequences a pass over a part of one differs in the last bits, by which z
/// may cross a border: here it takes the buckets of the whole pass.
class Replay : public NaiveExchange {
 public:
  Replay(const std::vector<TensorSpec>& tensors, DenseTensors tables, oracle::Buckets buckets,
         size_t tokens)
      : NaiveExchange(tensors, std::move(tables)), known_(std::move(buckets)), tokens_(tokens) {}

  /// The next Forward() is of the tokens from there on.
  void GoTo(size_t token) { at_ = token; }
  /// The part of all buckets that would not have been those of the whole pass.
  double other() const { return static_cast<double>(other_) / static_cast<double>(all_); }

  Status Forward(const TensorSpec& tensor, const Hashes& hashes, float* y) override {
    for (size_t pair = 0; pair < hashes.pairs; ++pair) {
      for (size_t t = 0; t < hashes.tokens; ++t) {
        const uint32_t bucket = known_[tensor.id][pair * tokens_ + at_ + t];
        const auto bytes = static_cast<size_t>(hashes.index_bytes);
        std::byte* here = hashes.indices.data() + (pair * hashes.tokens + t) * bytes;
        other_ += std::memcmp(here, &bucket, bytes) != 0;
        std::memcpy(here, &bucket, bytes);
        ++all_;
      }
    }
    return NaiveExchange::Forward(tensor, hashes, y);
  }

 private:
  const oracle::Buckets known_;
  const size_t tokens_;
  size_t at_ = 0, other_ = 0, all_ = 0;
};

/// One run of the float model.
struct FloatRun {
  double loss_sum = 0;
  DenseTensors gradients;  // by tensor id, tables included
  std::vector<float> logprobs;
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
    EXPECT_TRUE(
        model.Train(dense, batch, scale, exchange, workspace, &run.loss_sum, &run.gradients).ok());
    const uint32_t embedding = model.embedding();
    CompleteEmbedding(tensors[embedding], batch, &run.gradients[embedding]);
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
    EXPECT_EQ(one.gradients, many.gradients);
    EXPECT_EQ(one.buckets, many.buckets);
  }
}

/// A text in parts, each after what was kept of those before it, is the text as a whole.
TEST_P(ModelTest, PartsOfATextAreTheWhole) {
  const Fixture fixture(GetParam().config);
  const FloatRun run = fixture.Run(2);
  oracle::Options options;
  options.replay = &run.buckets;
  const std::vector<double> expected =
      oracle::Run(fixture.config, fixture.tensors, ToDouble(fixture.parameters), fixture.batch,
                  options)
          .logits;
  const size_t vocabulary = static_cast<size_t>(fixture.config.model.vocabulary);
  const size_t length = fixture.batch.length;
  std::vector<float> of_one_thread;
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    const Model model(fixture.config, fixture.tensors, pool);
    Replay exchange(fixture.tensors, fixture.parameters, run.buckets, fixture.batch.tokens());
    Model::Workspace workspace;
    std::vector<float> logits, all;
    const auto extend = [&](size_t begin, size_t end, Model::Context* context) {
      exchange.GoTo(begin);
      const auto ids = fixture.batch.inputs.begin();
      ASSERT_TRUE(model
                      .Extend(fixture.parameters,
                              {ids + static_cast<std::ptrdiff_t>(begin),
                               ids + static_cast<std::ptrdiff_t>(end)},
                              exchange, workspace, context, &logits)
                      .ok());
      const auto last = expected.begin() + static_cast<std::ptrdiff_t>((end - 1) * vocabulary);
      const std::vector<double> of_last(last, last + static_cast<std::ptrdiff_t>(vocabulary));
      EXPECT_LT(RelativeError(logits, of_last), kTolerance) << "token " << end - 1;
      all.insert(all.end(), logits.begin(), logits.end());
    };
    for (size_t s = 0; s < fixture.batch.sequences; ++s) {
      Model::Context context;
      const size_t begin = s * length;
      for (const auto& [from, to] :
           {std::pair<size_t, size_t>{0, 1}, {1, 31}, {31, 32}, {32, 33}, {33, length}}) {
        extend(begin + from, begin + to, &context);
        EXPECT_EQ(context.length(), to);
      }
      // Back to an earlier place, and on from there.
      context.Truncate(31);
      extend(begin + 31, begin + 40, &context);
      EXPECT_EQ(context.length(), 40u);
    }
    if (GetParam().config.model.projection == Projection::kMemory) {
      EXPECT_LT(exchange.other(), 0.001);
    }
    if (of_one_thread.empty()) of_one_thread = all;
    EXPECT_EQ(of_one_thread, all);
  }
}

INSTANTIATE_TEST_SUITE_P(Sweep, ModelTest, testing::ValuesIn(ModelSweep(SmallShape())),
                         [](const auto& entry) { return entry.param.name; });

/// Nano, where a product has several tiles and attention several query tiles.
TEST(ModelSizeTest, NanoHasTheSameBitsForAnyThreads) {
  Config config;
  Fixture fixture(config);
  fixture.batch = RandomBatch(config, 2, 256, 5);
  const FloatRun one = fixture.Run(1);
  const FloatRun many = fixture.Run(3);
  EXPECT_EQ(one.loss_sum, many.loss_sum);
  EXPECT_EQ(one.gradients, many.gradients);
}

/// Logits of 64 MiB and more are made in slices of tokens: here 4 slices, the last one short.
TEST(ModelSizeTest, VocabularyInSlices) {
  Config config;
  config.model = SmallShape();
  config.model.layers = 1;
  config.model.vocabulary = 200001;
  Fixture fixture(config);
  fixture.parameters = RandomParameters(fixture.tensors, 7);
  const FloatRun run = fixture.Run(2);
  for (const char* name : {"head.weight", "final_norm.weight", "blocks.0.m2.bias"}) {
    const TensorSpec* tensor = FindTensor(fixture.tensors, name);
    ASSERT_NE(tensor, nullptr);
    double sum = 0;
    for (const float g : run.gradients[tensor->id]) sum += std::abs(static_cast<double>(g));
    EXPECT_TRUE(std::isfinite(sum) && sum > 0) << name;
  }
  // Every token's dlogits add up to zero, so the columns of the head's gradient do too.
  const size_t d = static_cast<size_t>(config.model.d);
  const std::vector<float>& dhead = run.gradients[FindTensor(fixture.tensors, "head.weight")->id];
  for (size_t c = 0; c < d; ++c) {
    double sum = 0;
    double size = 0;
    for (size_t v = c; v < dhead.size(); v += d) {
      sum += static_cast<double>(dhead[v]);
      size += std::abs(static_cast<double>(dhead[v]));
    }
    EXPECT_LT(std::abs(sum), 100 * kEps * size);
  }
}

Config SmallConfig() {
  Config config;
  config.model = SmallShape();
  return config;
}

TEST(ModelUseTest, AContextTakesNoMoreThanTheModelKnows) {
  Fixture fixture(SmallConfig());
  ThreadPool pool(1);
  const Model model(fixture.config, fixture.tensors, pool);
  NaiveExchange exchange(fixture.tensors, fixture.parameters);
  Model::Workspace workspace;
  Model::Context context;
  std::vector<float> logits;
  const auto extend = [&](size_t count, uint32_t id) {
    return model.Extend(fixture.parameters, std::vector<uint32_t>(count, id), exchange, workspace,
                        &context, &logits);
  };
  const size_t sequence = static_cast<size_t>(fixture.config.model.sequence);
  ASSERT_TRUE(extend(sequence - 1, 1).ok());
  EXPECT_EQ(extend(2, 1).code(), Code::kInvalid);
  EXPECT_EQ(extend(1, static_cast<uint32_t>(fixture.config.model.vocabulary)).code(),
            Code::kInvalid);
  EXPECT_EQ(extend(0, 1).code(), Code::kInvalid);
  EXPECT_EQ(context.length(), sequence - 1);
  EXPECT_TRUE(extend(1, 1).ok());
  EXPECT_EQ(extend(1, 1).code(), Code::kInvalid);
}

TEST(ModelUseTest, WorkspaceForgetsTheLastBatch) {
  for (const Projection projection : {Projection::kMemory, Projection::kDense}) {
    Config config = SmallConfig();
    config.model.projection = projection;
    Fixture fixture(config);
    ThreadPool pool(1);
    const Model model(fixture.config, fixture.tensors, pool);
    const TokenBatch small = RandomBatch(config, 2, 9, 21);
    DenseTensors first;
    for (const bool warm : {false, true}) {
      NaiveExchange exchange(fixture.tensors, fixture.parameters);
      Model::Workspace workspace;
      DenseTensors gradients;
      double loss = 0;
      if (warm) {
        ASSERT_TRUE(
            model
                .Train(fixture.parameters, fixture.batch, 1, exchange, workspace, &loss, &gradients)
                .ok());
        exchange.Clear();
      }
      ASSERT_TRUE(
          model.Train(fixture.parameters, small, 1, exchange, workspace, &loss, &gradients).ok());
      if (warm) {
        EXPECT_EQ(first, gradients);
      } else {
        first = gradients;
      }
    }
  }
}

TEST(ModelUseTest, ManyMicroBatchesAtOnce) {
  Fixture fixture(SmallConfig());
  ThreadPool pool(2);
  const Model model(fixture.config, fixture.tensors, pool);
  constexpr size_t kAtOnce = 3;
  std::vector<DenseTensors> gradients(kAtOnce);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kAtOnce; ++i) {
    threads.emplace_back([&, i] {
      NaiveExchange exchange(fixture.tensors, fixture.parameters);
      Model::Workspace workspace;
      double loss = 0;
      EXPECT_TRUE(model
                      .Train(fixture.parameters, fixture.batch, 1, exchange, workspace, &loss,
                             &gradients[i])
                      .ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(gradients[0], gradients[1]);
  EXPECT_EQ(gradients[0], gradients[2]);
}

/// Fails at the n-th call.
class FailingExchange : public NaiveExchange {
 public:
  FailingExchange(const Fixture& fixture, int calls)
      : NaiveExchange(fixture.tensors, fixture.parameters), calls_(calls) {}
  Status Forward(const TensorSpec& tensor, const Hashes& hashes, float* y) override {
    if (calls_-- == 0) return Status(Code::kStale, "the step has ended");
    return NaiveExchange::Forward(tensor, hashes, y);
  }
  Status Backward(const TensorSpec& tensor, const Hashes& hashes, const Buffer& dy,
                  float* dweights) override {
    if (calls_-- == 0) return Status(Code::kStale, "the step has ended");
    return NaiveExchange::Backward(tensor, hashes, dy, dweights);
  }

 private:
  int calls_;
};

TEST(ModelUseTest, ErrorsOfTheExchangeComeBack) {
  Fixture fixture(SmallConfig());
  ThreadPool pool(1);
  const Model model(fixture.config, fixture.tensors, pool);
  Model::Workspace workspace;
  DenseTensors gradients;
  double loss = 0;
  for (int calls = 0; calls <= 12; ++calls) {  // two blocks, three layers, forward and backward
    FailingExchange exchange(fixture, calls);
    EXPECT_EQ(
        model.Train(fixture.parameters, fixture.batch, 1, exchange, workspace, &loss, &gradients)
            .code(),
        calls < 12 ? Code::kStale : Code::kOk);
  }
}

TEST(ModelUseTest, NotANumberReachesLossAndGradients) {
  for (const Score score : {Score::kSoftmax, Score::kScaled}) {
    Config config = SmallConfig();
    config.model.score = score;
    Fixture fixture(config);
    const TensorSpec* gain = FindTensor(fixture.tensors, "blocks.0.norm1.weight");
    fixture.parameters[gain->id][3] = std::numeric_limits<float>::quiet_NaN();
    const FloatRun run = fixture.Run(1);
    EXPECT_TRUE(std::isnan(run.loss_sum));
    for (const TensorSpec& tensor : fixture.tensors) {
      const auto& gradient = run.gradients[tensor.id];
      EXPECT_TRUE(std::any_of(gradient.begin(), gradient.end(), [](float g) {
        return !std::isfinite(g);
      })) << tensor.name;
    }
  }
}

TEST(ModelUseTest, RefusesWhatDoesNotFit) {
  Fixture fixture(SmallConfig());
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
