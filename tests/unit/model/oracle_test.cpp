// The oracle against central differences of its own loss: every kind of tensor, both scores, one to
// three probes, both norms, with and without expanding bits, and the dense baseline.
//
// Bucket indices are constants of the gradient, so a parameter whose step changes a bucket
// somewhere has no derivative to compare with; such points are left out and counted.
#include "tests/support/oracle/oracle.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "common/base/random.h"
#include "tests/support/model_cases.h"
#include "worker/config/tensors.h"

namespace mf {
namespace {

// Central differences err by h^2 / 6 times the third derivative and by 1e-16 * loss / h; two steps
// combined (Richardson) leave h^4 of the first.
constexpr double kStep = 2e-4;
constexpr double kTolerance = 1e-6;
constexpr size_t kPointsPerTensor = 12;

ModelConfig TinyShape() {
  ModelConfig shape;
  shape.d = 16;
  shape.layers = 2;
  shape.heads = 2;  // 8 numbers a head, the first 4 rotated
  shape.K = 4;
  shape.tau = 4;
  shape.sequence = 6;
  shape.vocabulary = 11;
  shape.rotary_pct = 0.5;
  return shape;
}

class OracleTest : public testing::TestWithParam<ModelCase> {
 protected:
  OracleTest()
      : config_(GetParam().config),
        tensors_(TensorsOf(config_)),
        parameters_(ToDouble(RandomParameters(tensors_, 5))),
        batch_(RandomBatch(config_, 2, 5, 3)) {}

  /// The loss with one number moved; false if a bucket changed.
  bool LossAt(size_t tensor, size_t at, double delta, const oracle::Buckets& base, double* loss) {
    const double kept = parameters_[tensor][at];
    parameters_[tensor][at] = kept + delta;
    const oracle::Result result =
        oracle::Run(config_, tensors_, parameters_, batch_, {.gradients = false});
    parameters_[tensor][at] = kept;
    *loss = result.loss_sum;
    return result.choice == base;
  }

  bool Slope(size_t tensor, size_t at, double step, const oracle::Buckets& base, double* slope) {
    double above = 0;
    double below = 0;
    if (!LossAt(tensor, at, step, base, &above) || !LossAt(tensor, at, -step, base, &below)) {
      return false;
    }
    *slope = (above - below) / (2 * step);
    return true;
  }

  const Config config_;
  const std::vector<TensorSpec> tensors_;
  oracle::Tensors parameters_;
  const TokenBatch batch_;
};

/// Places to look at: the largest gradients, which are rows that were read, and some at random.
std::vector<size_t> Points(const std::vector<double>& gradient, uint64_t key) {
  std::vector<size_t> order(gradient.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  const size_t largest = std::min(order.size(), kPointsPerTensor / 2);
  std::partial_sort(
      order.begin(), order.begin() + static_cast<std::ptrdiff_t>(largest), order.end(),
      [&](size_t a, size_t b) { return std::abs(gradient[a]) > std::abs(gradient[b]); });
  order.resize(largest);
  while (order.size() < kPointsPerTensor) {
    order.push_back(RandomBelow(RandomKey(key, order.size()), gradient.size()));
  }
  return order;
}

TEST_P(OracleTest, AgreesWithCentralDifferences) {
  const oracle::Result base = oracle::Run(config_, tensors_, parameters_, batch_, {});
  size_t points = 0;
  size_t excluded = 0;
  double worst = 0;
  for (const TensorSpec& tensor : tensors_) {
    const std::vector<double>& gradient = base.gradients[tensor.id];
    double largest = 0;
    for (const double g : gradient) largest = std::max(largest, std::abs(g));
    EXPECT_GT(largest, 0) << tensor.name;
    for (const size_t at : Points(gradient, tensor.id)) {
      ++points;
      double wide = 0;
      double narrow = 0;
      if (!Slope(tensor.id, at, kStep, base.choice, &wide) ||
          !Slope(tensor.id, at, kStep / 2, base.choice, &narrow)) {
        ++excluded;
        continue;
      }
      const double slope = (4 * narrow - wide) / 3;
      // Numbers far below the tensor's largest are compared with a hundredth of it.
      const double scale = std::max(std::abs(gradient[at]), 0.01 * largest);
      const double error = std::abs(slope - gradient[at]) / scale;
      EXPECT_LT(error, kTolerance) << tensor.name << " at " << at << ": " << gradient[at];
      worst = std::max(worst, error);
    }
  }
  EXPECT_LT(excluded, points / 5);
  std::printf("worst relative error %.1e; %zu of %zu points excluded for changing a bucket\n",
              worst, excluded, points);
}

TEST_P(OracleTest, ReplayOfTheOwnChoiceChangesNothing) {
  const oracle::Result own = oracle::Run(config_, tensors_, parameters_, batch_, {});
  const oracle::Result replayed =
      oracle::Run(config_, tensors_, parameters_, batch_, {.replay = &own.choice});
  EXPECT_EQ(own.loss_sum, replayed.loss_sum);
  EXPECT_EQ(own.gradients, replayed.gradients);
}

INSTANTIATE_TEST_SUITE_P(Sweep, OracleTest, testing::ValuesIn(ModelSweep(TinyShape())),
                         [](const auto& entry) { return entry.param.name; });

}  // namespace
}  // namespace mf
