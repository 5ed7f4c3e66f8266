// Training by a GPU worker: 20 steps beside the CPU worker, and one result whatever the number of
// servers and of micro-batches in flight. What was trained is then scored on the GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tests/support/training_case.h"
#include "worker/compute/cpu_compute.h"
#include "worker/compute/cuda/compute.h"
#include "worker/export/loaded_model.h"
#include "worker/export/local_exchange.h"
#include "worker/export/scorer.h"

namespace mf {
namespace {

constexpr int64_t kSteps = 20;

TrainOptions OptionsOf(const TrainingFolder& folder, bool gpu) {
  TrainOptions options;
  options.config = SmallTrainingConfig(kSteps);
  options.data = folder.text();
  options.threads = 2;
  options.backend = Backend::kCpu;
  if (gpu) options.make_compute = cuda::MakeCudaCompute;
  return options;
}

/// The losses of a run, by step.
std::vector<double> Losses(const TrainingOutcome& outcome) {
  const std::string key = "\"loss\":";
  std::vector<double> losses;
  for (size_t at = outcome.metrics.find(key); at != std::string::npos;
       at = outcome.metrics.find(key, at + 1)) {
    losses.push_back(std::stod(outcome.metrics.substr(at + key.size())));
  }
  return losses;
}

struct Variant {
  Projection projection;
  Placement placement;
};

TEST(GpuTrainingTest, GoesAsTheCpuDoes) {
  const TrainingFolder folder;
  for (const Variant& variant : {Variant{Projection::kMemory, Placement::kServer},
                                 Variant{Projection::kMemory, Placement::kDevice},
                                 Variant{Projection::kDense, Placement::kServer}}) {
    TrainOptions cpu = OptionsOf(folder, false);
    TrainOptions gpu = OptionsOf(folder, true);
    cpu.config.model.projection = gpu.config.model.projection = variant.projection;
    cpu.config.exchange.placement = gpu.config.exchange.placement = variant.placement;
    cpu.config.train.micro_batches = gpu.config.train.micro_batches = 2;
    const TrainingOutcome expected = TrainAndRead(cpu, folder.Path("cpu"));
    const TrainingOutcome got = TrainAndRead(gpu, folder.Path("gpu"));
    const std::vector<double> cpu_loss = Losses(expected);
    const std::vector<double> gpu_loss = Losses(got);
    ASSERT_EQ(cpu_loss.size(), static_cast<size_t>(kSteps));
    ASSERT_EQ(gpu_loss.size(), cpu_loss.size());
    double worst = 0;
    for (size_t i = 0; i < cpu_loss.size(); ++i) {
      worst = std::max(worst, std::abs(gpu_loss[i] - cpu_loss[i]) / cpu_loss[i]);
    }
    std::printf("loss %.4f to %.4f, worst relative difference %.2g\n", cpu_loss.front(),
                cpu_loss.back(), worst);
    // The first step tells rounding alone. Later a number that rounds to the other side of a border
    // takes another bucket, and Adam makes of a small gradient's sign a whole step.
    EXPECT_NEAR(gpu_loss[0], cpu_loss[0], 2e-3 * cpu_loss[0]);
    EXPECT_LT(worst, 0.02);
    EXPECT_LT(gpu_loss.back(), 0.8 * gpu_loss.front()) << "nothing was learned";
  }
}

TEST(GpuTrainingTest, OneResult) {
  const TrainingFolder folder;
  TrainOptions options = OptionsOf(folder, true);
  options.config.train.steps = 4;
  const TrainingOutcome expected = TrainAndRead(options, folder.Path("one"));
  options.shards = 3;
  options.config.exchange.in_flight = 4;
  EXPECT_EQ(TrainAndRead(options, folder.Path("three")), expected);
}

// The sums come from copies of the rows; the gradients go to the servers as weights and dL/dy or as
// rows that the GPU summed. The bits are the same: so is the model.
TEST(GpuTrainingTest, OneResultOfTablesOnTheDevice) {
  const TrainingFolder folder;
  TrainOptions options = OptionsOf(folder, true);
  options.config.train.steps = 3;
  options.config.train.eval_every = 2;  // readers meet the copies of training, and the other way
  options.config.model.probes = 2;
  options.config.exchange.placement = Placement::kDevice;
  std::vector<TrainingOutcome> outcomes;
  for (const ExchangeMode mode : {ExchangeMode::kPushdown, ExchangeMode::kPull}) {
    options.config.exchange.mode = mode;
    for (const int shards : {1, 3}) {
      options.shards = shards;
      options.config.exchange.in_flight = shards == 1 ? 1 : 4;
      outcomes.push_back(TrainAndRead(options, folder.Path("device")));
      EXPECT_EQ(outcomes.back(), outcomes.front()) << shards << " servers";
    }
  }
}

/// The log-probabilities of `tokens` under an exported model.
std::vector<float> Logprobs(const LoadedModel& model, Compute& compute, ThreadPool& pool,
                            const std::vector<uint32_t>& tokens) {
  LocalExchange exchange(model, pool);
  auto scorer = Scorer::Make(model.config(), compute, model.dense(), exchange);
  EXPECT_TRUE(scorer.ok()) << scorer.status().message();
  std::vector<float> all;
  const Status status = (*scorer)->Score(
      static_cast<int64_t>(tokens.size()),
      [&](int64_t begin, int64_t count, uint32_t* ids) {
        std::copy_n(tokens.begin() + begin, count, ids);
        return Status::Ok();
      },
      [&](std::span<const float> logprobs) {
        all.insert(all.end(), logprobs.begin(), logprobs.end());
      },
      {});
  EXPECT_TRUE(status.ok()) << status.message();
  return all;
}

// What `worker eval` and `worker score` do: full passes, and a shorter one at the end.
TEST(GpuTrainingTest, ScoresAnExportAsTheCpuDoes) {
  const TrainingFolder folder;
  TrainOptions options = OptionsOf(folder, false);
  options.config.train.eval_batches = 1;
  options.out = folder.Path("out");
  options.export_path = folder.Path("model.safetensors");
  const Status trained = Train(options);
  ASSERT_TRUE(trained.ok()) << trained.message();
  auto model = LoadedModel::Open(options.export_path);
  ASSERT_TRUE(model.ok()) << model.status().message();

  const std::string text = "a river of small stones runs under the old bridge and never stops. ";
  std::vector<uint32_t> tokens;
  for (int i = 0; i < 20; ++i) {
    for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  }
  const Config& config = (*model)->config();
  ASSERT_GT(tokens.size(), static_cast<size_t>(config.tokens_per_micro_batch()));
  ThreadPool pool(2);
  CpuCompute cpu(config, (*model)->tensors(), pool);
  auto gpu = cuda::MakeCudaCompute(config, (*model)->tensors());
  ASSERT_TRUE(gpu.ok()) << gpu.status().message();
  const std::vector<float> expected = Logprobs(**model, cpu, pool, tokens);
  const std::vector<float> got = Logprobs(**model, **gpu, pool, tokens);
  ASSERT_EQ(expected.size(), tokens.size() - 1);
  ASSERT_EQ(got.size(), expected.size());
  double cpu_loss = 0, gpu_loss = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    cpu_loss -= static_cast<double>(expected[i]);
    gpu_loss -= static_cast<double>(got[i]);
  }
  EXPECT_NEAR(gpu_loss, cpu_loss, 2e-3 * cpu_loss);
  EXPECT_LT(cpu_loss, std::log(257.0) * static_cast<double>(got.size()));
}

}  // namespace
}  // namespace mf
