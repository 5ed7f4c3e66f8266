// Goal: what the two ways of asking servers for a memory layer cost and what they return. Pushdown
// and pull agree to rounding, a block takes three exchanges forward and three backward, and the
// bytes on the wire are those of the design (2.1 and 2.4).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include "common/base/random.h"
#include "common/client/client.h"
#include "tests/support/cluster.h"
#include "tests/support/model_cases.h"
#include "worker/config/tensors.h"
#include "worker/train/report.h"
#include "worker/train/train_run.h"

namespace mf {
namespace {

constexpr double kAgreement = 1e-5;  // of a tensor's largest number

/// One step of one micro-batch, SGD without decay.
Config OneStepConfig() {
  Config config;
  config.model.d = 48;
  config.model.layers = 2;
  config.model.heads = 2;
  config.model.K = 6;
  config.model.tau = 8;
  config.model.sequence = 64;
  config.model.vocabulary = 50;
  config.train.micro_batches = 1;
  config.train.batch = 4;
  config.train.optimizer = OptimizerKind::kSgd;
  config.train.weight_decay = 0;
  config.train.clip = 0;
  return config;
}

template <class Numbers>
double RelativeDifference(const Numbers& a, const Numbers& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
    largest = std::max(largest, std::abs(static_cast<double>(a[i])));
  }
  EXPECT_GT(largest, 0);  // or nothing was compared
  return worst / largest;
}

struct ModeRun {
  std::vector<float> logprobs;
  Cluster::MicroBatch micro_batch;
  DenseTensors updates;  // of all tensors, by one SGD step
};

ModeRun RunMode(Config config, ExchangeMode mode, int shards, uint64_t seed) {
  constexpr double kRate = 1 << 20;  // so large that the old value costs no digit
  config.exchange.mode = mode;
  Cluster cluster(config, {.shards = shards, .threads = 2});
  ModeRun run;
  const TokenBatch batch = RandomBatch(config, 4, 64, seed);
  run.logprobs = cluster.Score(batch);
  const DenseTensors before = cluster.Read();
  run.micro_batch = cluster.Train(batch, 1.0 / 256);
  cluster.EndStep(kRate);
  run.updates = cluster.Read();
  for (size_t id = 0; id < before.size(); ++id) {
    for (size_t i = 0; i < before[id].size(); ++i) run.updates[id][i] -= before[id][i];
  }
  return run;
}

// Goal: on the same buckets, both modes have the same outputs and gradients up to rounding.
TEST(ExchangeModesTest, PullAndPushdownAgree) {
  for (const int64_t probes : {1, 2}) {
    for (const int shards : {1, 3}) {
      SCOPED_TRACE(std::to_string(probes) + " probes, " + std::to_string(shards) + " servers");
      Config config = OneStepConfig();
      config.model.probes = probes;
      // A number within rounding of a border may fall on different sides; another batch has none.
      ModeRun pushdown, pull;
      uint64_t seed = 0;
      do {
        ++seed;
        pushdown = RunMode(config, ExchangeMode::kPushdown, shards, seed);
        pull = RunMode(config, ExchangeMode::kPull, shards, seed);
      } while (pushdown.micro_batch.buckets != pull.micro_batch.buckets && seed < 5);
      ASSERT_EQ(pushdown.micro_batch.buckets, pull.micro_batch.buckets);

      EXPECT_LT(RelativeDifference(pushdown.logprobs, pull.logprobs), kAgreement);
      EXPECT_NEAR(pushdown.micro_batch.loss_sum, pull.micro_batch.loss_sum,
                  kAgreement * pushdown.micro_batch.loss_sum);
      for (const TensorSpec& tensor : TensorsOf(config)) {
        SCOPED_TRACE(tensor.name);
        const uint32_t id = tensor.id;
        // Gradients of dense tensors come from the worker, all others are seen in the updates.
        if (tensor.kind == TensorKind::kDense) {
          const auto& ours = pushdown.micro_batch.gradients[id];
          EXPECT_LT(RelativeDifference(ours, pull.micro_batch.gradients[id]), kAgreement);
        }
        EXPECT_LT(RelativeDifference(pushdown.updates[id], pull.updates[id]), kAgreement);
      }
    }
  }
}

/// What one operation has sent, received and how often.
struct Counted {
  double calls = 0, sent = 0, received = 0;
};

Counted CountOf(Cluster& cluster, Op op) {
  const Traffic& traffic = cluster.client().traffic(op);
  return {static_cast<double>(traffic.calls), static_cast<double>(traffic.sent_bytes),
          static_cast<double>(traffic.received_bytes)};
}

Counted operator-(const Counted& a, const Counted& b) {
  return {a.calls - b.calls, a.sent - b.sent, a.received - b.received};
}

/// Buckets and weights as a model would make them, but spread evenly.
Hashes RandomHashes(const TensorSpec& tensor, size_t probes, size_t tokens) {
  Hashes hashes;
  hashes.tokens = tokens;
  hashes.probes = probes;
  hashes.pairs = static_cast<size_t>(tensor.tables) * probes;
  hashes.index_bytes = tensor.index_bytes();
  const size_t count = hashes.pairs * tokens;
  hashes.indices = Buffer(count * static_cast<size_t>(hashes.index_bytes));
  hashes.weights = Buffer(count * sizeof(float));
  for (size_t i = 0; i < count; ++i) {
    const uint64_t bucket =
        RandomBelow(RandomKey(tensor.id, i), static_cast<uint64_t>(tensor.rows));
    // Little-endian, as on the wire.
    std::memcpy(hashes.indices.data() + i * static_cast<size_t>(hashes.index_bytes), &bucket,
                static_cast<size_t>(hashes.index_bytes));
    hashes.weights.as<float>()[i] = 0.01f * static_cast<float>(i % 17 + 1);
  }
  return hashes;
}

/// Rows that `hashes` reads, each counted once.
size_t DistinctRows(const TensorSpec& tensor, const Hashes& hashes) {
  std::set<uint64_t> rows;
  for (size_t i = 0; i < hashes.pairs * hashes.tokens; ++i) {
    uint64_t bucket = 0;
    std::memcpy(&bucket, hashes.indices.data() + i * static_cast<size_t>(hashes.index_bytes),
                static_cast<size_t>(hashes.index_bytes));
    const size_t table = i / (hashes.probes * hashes.tokens);
    rows.insert(table * static_cast<uint64_t>(tensor.rows) + bucket);
  }
  return rows.size();
}

struct WireCase {
  int shards;
  ExchangeMode mode;
  Wire wire;
  int64_t probes;
};

class ExchangeBytesTest : public testing::TestWithParam<WireCase> {};

// Goal: forward and backward of every memory layer cost the bytes of the formulas, within 5% for
// the headers.
TEST_P(ExchangeBytesTest, AsDesigned) {
  const WireCase& test = GetParam();
  constexpr size_t kTokens = 1024;
  Config config = OneStepConfig();
  config.model.layers = 1;
  config.model.sequence = kTokens;
  config.train.batch = 1;
  config.model.probes = test.probes;
  config.exchange.mode = test.mode;
  config.exchange.wire = test.wire;
  Cluster cluster(config, {.shards = test.shards, .threads = 2});
  const bool pull = test.mode == ExchangeMode::kPull;
  const double servers = test.shards;
  const double tokens = kTokens;
  const double number = test.wire == Wire::kBf16 ? 2 : 4;
  int layers = 0;
  for (const TensorSpec& tensor : cluster.tensors()) {
    if (tensor.kind != TensorKind::kMemory) continue;
    SCOPED_TRACE(tensor.name);
    ++layers;
    const Hashes hashes = RandomHashes(tensor, static_cast<size_t>(test.probes), kTokens);
    const double pairs = static_cast<double>(hashes.pairs);
    const double columns = static_cast<double>(tensor.columns);
    const double index = tensor.index_bytes();
    const double rows = static_cast<double>(DistinctRows(tensor, hashes));
    std::vector<float> y(kTokens * static_cast<size_t>(tensor.columns));
    std::vector<float> dweights(hashes.pairs * kTokens);
    Buffer dy(y.size() * sizeof(float));
    std::fill_n(dy.as<float>(), y.size(), 0.5f);

    const Op forward_op = pull ? Op::kPull : Op::kForward;
    const Op backward_op = pull ? Op::kPush : Op::kBackward;
    const Counted forward_before = CountOf(cluster, forward_op);
    const Counted backward_before = CountOf(cluster, backward_op);
    {
      MutexLock computing(cluster.gate());
      RemoteExchange exchange(cluster.tables(), cluster.pool(), cluster.gate(), cluster.open_step(),
                              0);
      ASSERT_TRUE(exchange.Forward(tensor, hashes, y.data()).ok());
      ASSERT_TRUE(exchange.Backward(tensor, hashes, dy, dweights.data()).ok());
      ASSERT_TRUE(exchange.Finish().ok());
    }
    const Counted forward = CountOf(cluster, forward_op) - forward_before;
    const Counted backward = CountOf(cluster, backward_op) - backward_before;
    EXPECT_EQ(forward.calls, 1);
    EXPECT_EQ(backward.calls, 1);
    const auto expect = [](double got, double due, const char* what) {
      EXPECT_GE(got, due) << what;
      EXPECT_LE(got, 1.05 * due) << what;
    };
    if (pull) {
      // Row ids out, float rows back; row ids, hits and float sums out, nothing back.
      expect(forward.sent, servers * rows * 8, "pull request");
      expect(forward.received, rows * columns * 4, "pull reply");
      expect(backward.sent, servers * rows * (8 + 4) + rows * columns * 4, "push request");
      EXPECT_LT(backward.received, servers * 256);
    } else {
      const double pair_bytes = servers * pairs * (index + 4);
      expect(forward.sent, tokens * pair_bytes, "forward request");
      expect(forward.received, tokens * columns * number, "forward reply");
      expect(backward.sent, tokens * (pair_bytes + servers + columns * number), "backward request");
      expect(backward.received, tokens * 8 * servers * pairs, "backward reply");
    }
  }
  EXPECT_EQ(layers, 3);
}

std::vector<WireCase> WireCases() {
  std::vector<WireCase> cases;
  for (const int shards : {1, 2, 3}) {
    cases.push_back({shards, ExchangeMode::kPushdown, Wire::kF32, 1});
    cases.push_back({shards, ExchangeMode::kPushdown, Wire::kBf16, 1});
    cases.push_back({shards, ExchangeMode::kPull, Wire::kF32, 1});
  }
  cases.push_back({2, ExchangeMode::kPushdown, Wire::kF32, 3});
  cases.push_back({2, ExchangeMode::kPull, Wire::kBf16, 2});
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Sweep, ExchangeBytesTest, testing::ValuesIn(WireCases()),
                         [](const auto& entry) {
                           const WireCase& test = entry.param;
                           return std::string(test.mode == ExchangeMode::kPull ? "Pull"
                                                                               : "Pushdown") +
                                  (test.wire == Wire::kBf16 ? "Bf16" : "F32") + "Servers" +
                                  std::to_string(test.shards) + "Probes" +
                                  std::to_string(test.probes);
                         });

/// A training run in a folder of its own; `config.train.steps` long.
class TrainingRun {
 public:
  explicit TrainingRun(const Config& config, int shards = 1) {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "exchange_test.XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    std::ofstream text(folder_ / "text.txt");
    const char* words[] = {"the ", "river ", "runs ", "under ", "old ", "stones ", "and ", "on\n"};
    for (uint64_t i = 0; i < 4'000; ++i) text << words[RandomBelow(RandomKey(9, i), 8)];
    text.close();
    TrainOptions options;
    options.config = config;
    options.data = folder_ / "text.txt";
    options.out = folder_ / "out";
    options.shards = shards;
    const Status status = Train(options, &summary_);
    EXPECT_TRUE(status.ok()) << status.message();
    reports_ = ReadMetrics(folder_ / "out/metrics.jsonl");
    EXPECT_EQ(reports_.size(), static_cast<size_t>(config.train.steps));
  }
  ~TrainingRun() { std::filesystem::remove_all(folder_); }
  TrainingRun(const TrainingRun&) = delete;

  const TrainSummary& summary() const { return summary_; }
  const std::vector<StepReport>& reports() const { return reports_; }

 private:
  std::filesystem::path folder_;
  TrainSummary summary_;
  std::vector<StepReport> reports_;
};

Config TextConfig() {
  Config config = OneStepConfig();
  config.train = TrainConfig();
  config.model.vocabulary = 257;
  config.model.sequence = 32;
  config.train.batch = 2;
  config.train.micro_batches = 2;
  config.train.eval_every = 0;
  return config;
}

// Goal: a micro-batch takes three exchanges per block forward and three backward, whatever the
// servers.
TEST(ExchangeCountTest, ThreePerBlockAndDirection) {
  for (const int64_t layers : {1, 3}) {
    for (const int shards : {1, 3}) {
      Config config = TextConfig();
      config.model.layers = layers;
      config.train.steps = 4;
      config.data.validation_ratio = 0;  // evaluation would exchange, too
      config.exchange.mode = ExchangeMode::kPushdown;
      const TrainingRun run(config, shards);
      const uint64_t due = 3 * static_cast<uint64_t>(layers) * run.summary().micro_batches;
      EXPECT_EQ(run.summary().micro_batches, 8u);
      EXPECT_EQ(run.summary().forward_calls, due);
      EXPECT_EQ(run.summary().backward_calls, due);
    }
  }
}

// Goal: rounding apart, both modes are the same training.
TEST(ExchangeTrainingTest, LossesOfPullAndPushdownStayTogether) {
  Config config = TextConfig();
  config.train.steps = 200;
  double losses[2];
  for (const ExchangeMode mode : {ExchangeMode::kPushdown, ExchangeMode::kPull}) {
    config.exchange.mode = mode;
    const TrainingRun run(config);
    double last = 0;
    for (size_t i = 190; i < 200; ++i) last += run.reports()[i].loss / 10;
    EXPECT_LT(last, 0.6 * run.reports()[0].loss);  // it learns at all
    losses[mode == ExchangeMode::kPull] = last;
  }
  EXPECT_NEAR(losses[0], losses[1], 0.01 * losses[0]);
}

}  // namespace
}  // namespace mf
