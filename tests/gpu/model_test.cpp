// The whole model on a GPU against the double oracle: log-probabilities, loss and the gradient of
// every tensor, tables included, over scores, probes, norms and the dense baseline.
//
// The oracle replays the buckets that the GPU chose, so that both differentiate the same function.
#include <gtest/gtest.h>

#include "tests/gpu/tolerances.h"
#include "tests/support/model_cases.h"
#include "tests/support/naive_exchange.h"
#include "tests/support/oracle/oracle.h"
#include "worker/compute/cpu/embedding.h"
#include "worker/compute/cuda/compute.h"
#include "worker/config/tensors.h"

namespace mf {
namespace {

/// ModelSweep, and some of it again with the tables on the device.
std::vector<ModelCase> Cases() {
  std::vector<ModelCase> cases = ModelSweep(SmallShape());
  for (const ModelCase& other : ModelSweep(SmallShape())) {
    const ModelConfig& model = other.config.model;
    if (model.projection == Projection::kDense || model.norm == NormKind::kLayerNorm) continue;
    cases.push_back(other);
    cases.back().name += "OnDevice";
    cases.back().config.exchange.placement = Placement::kDevice;
    cases.back().config.exchange.mode = ExchangeMode::kPushdown;
  }
  return cases;
}

class GpuModelTest : public testing::TestWithParam<ModelCase> {
 protected:
  GpuModelTest() : config(GetParam().config), tensors(TensorsOf(config)) {
    auto dense = std::make_shared<DenseTensors>(tensors.size());
    tables.resize(tensors.size());
    for (const TensorSpec& tensor : tensors) {
      (tensor.kind == TensorKind::kMemory ? tables : *dense)[tensor.id] = parameters()[tensor.id];
    }
    dense_ = dense;
    Result<std::unique_ptr<Compute>> made = cuda::MakeCudaCompute(config, tensors);
    EXPECT_TRUE(made.ok()) << made.status().message();
    compute = std::move(*made);
    auto workspace_made = compute->NewWorkspace();
    EXPECT_TRUE(workspace_made.ok());
    workspace = std::move(*workspace_made);
  }

  const DenseTensors& parameters() {
    if (parameters_.empty()) parameters_ = RandomParameters(tensors, 7);
    return parameters_;
  }

  bool OnDevice() const { return config.exchange.placement == Placement::kDevice; }

  const Config config;
  const std::vector<TensorSpec> tensors;
  DenseTensors tables;
  Compute::Parameters dense_;
  std::unique_ptr<Compute> compute;
  std::unique_ptr<Compute::Workspace> workspace;

 private:
  DenseTensors parameters_;
};

/// The gradient as a whole tensor: of the embedding only the rows that occur are there.
std::vector<float> Whole(const TensorSpec& tensor, const Compute::Gradient& gradient,
                         const TokenBatch& batch) {
  EXPECT_EQ(gradient.rows,
            tensor.name == "embed.weight" ? DistinctTokens(batch.inputs) : std::vector<uint64_t>());
  std::vector<float> values(gradient.values.begin(), gradient.values.end());
  if (!gradient.rows.empty()) CompleteEmbedding(tensor, batch, &values);
  return values;
}

TEST_P(GpuModelTest, AgreesWithOracle) {
  // 201 tokens: four chunks, two attention tiles, seven hash tiles, all with tails. Then a smaller
  // batch in the same workspace: nothing of the first may be left.
  for (const auto& [sequences, length] : {std::pair<size_t, size_t>{3, 67}, {2, 5}}) {
    const TokenBatch batch = RandomBatch(config, sequences, length, 11 + length);
    const double scale = 1.0 / 512;
    NaiveExchange exchange(tensors, tables, OnDevice());
    std::vector<float> logprobs;
    Compute::Gradients gradients;
    double loss_sum = 0;
    ASSERT_TRUE(compute->Score(dense_, batch, exchange, *workspace, &logprobs).ok());
    const Status trained =
        compute->Train(dense_, batch, scale, exchange, *workspace, &loss_sum, &gradients);
    ASSERT_TRUE(trained.ok()) << trained.message();

    oracle::Options options;
    options.loss_scale = scale;
    options.replay = &exchange.buckets();
    const oracle::Result expected =
        oracle::Run(config, tensors, ToDouble(parameters()), batch, options);
    EXPECT_LT(RelativeError(logprobs, expected.logprobs), kGpuModelTolerance) << "logprobs";
    EXPECT_NEAR(loss_sum, expected.loss_sum, kGpuModelTolerance * expected.loss_sum);
    double worst = 0;
    for (const TensorSpec& tensor : tensors) {
      const double error = RelativeError(tensor.kind == TensorKind::kMemory
                                             ? exchange.gradients()[tensor.id]
                                             : Whole(tensor, gradients[tensor.id], batch),
                                         expected.gradients[tensor.id]);
      EXPECT_LT(error, kGpuModelTolerance) << tensor.name;
      worst = std::max(worst, error);
    }
    std::printf("%zu x %zu: worst relative error %.2g\n", sequences, length, worst);
  }
}

TEST_P(GpuModelTest, SameBitsAgain) {
  const TokenBatch batch = RandomBatch(config, 2, 37, 11);
  std::vector<std::vector<float>> first;
  for (int run = 0; run < 2; ++run) {
    NaiveExchange exchange(tensors, tables, OnDevice());
    Compute::Gradients gradients;
    double loss_sum = 0;
    ASSERT_TRUE(compute->Train(dense_, batch, 1, exchange, *workspace, &loss_sum, &gradients).ok());
    std::vector<std::vector<float>> all;
    for (const auto& gradient : gradients)
      all.emplace_back(gradient.values.begin(), gradient.values.end());
    for (const auto& table : exchange.gradients()) all.push_back(table);
    if (run == 0) first = all;
    EXPECT_EQ(first, all);
  }
}

TEST(GpuErrorsTest, OneLineEach) {
  Config config;
  config.model = SmallShape();
  const std::vector<TensorSpec> tensors = TensorsOf(config);
  auto compute = cuda::MakeCudaCompute(config, tensors);
  ASSERT_TRUE(compute.ok());
  auto workspace = (*compute)->NewWorkspace();
  ASSERT_TRUE(workspace.ok());
  const auto parameters = std::make_shared<const DenseTensors>(RandomParameters(tensors, 7));
  NaiveExchange exchange(tensors, RandomParameters(tensors, 7));
  std::vector<float> logprobs;
  TokenBatch batch = RandomBatch(config, 1, 5, 1);
  batch.targets[4] = 37;
  Status status = (*compute)->Score(parameters, batch, exchange, **workspace, &logprobs);
  EXPECT_EQ(status.code(), Code::kInvalid);
  EXPECT_NE(status.message().find("vocabulary of 37"), std::string::npos) << status.message();
  batch = RandomBatch(config, 5, 70, 1);  // one sequence more than a micro-batch has
  status = (*compute)->Score(parameters, batch, exchange, **workspace, &logprobs);
  EXPECT_EQ(status.code(), Code::kInvalid);

  config.model.d = 1040;  // 2 heads of 520 numbers
  config.model.K = 130;
  const auto refused = cuda::MakeCudaCompute(config, TensorsOf(config));
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.status().message().find("model.heads"), std::string::npos);

  config.model = SmallShape();
  config.model.vocabulary = 1 << 20;
  config.model.sequence = 1 << 20;  // terabytes of activations
  const std::vector<TensorSpec> large = TensorsOf(config);
  auto too_large = cuda::MakeCudaCompute(config, large);
  ASSERT_TRUE(too_large.ok());
  const auto none = (*too_large)->NewWorkspace();
  ASSERT_FALSE(none.ok());
  EXPECT_NE(none.status().message().find("lower train.batch"), std::string::npos)
      << none.status().message();
}

INSTANTIATE_TEST_SUITE_P(Sweep, GpuModelTest, testing::ValuesIn(Cases()),
                         [](const auto& of) { return of.param.name; });

}  // namespace
}  // namespace mf
