// The elementwise kernels (row generator, optimizers, sums) against oracles in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "common/base/random.h"
#include "common/kernels/generate.h"
#include "common/kernels/pairs.h"
#include "pserver/table/kernels/rows.h"
#include "pserver/table/optimizers/adagrad.h"
#include "pserver/table/optimizers/adam.h"
#include "pserver/table/optimizers/sgd.h"
#include "tests/support/kernel_checks.h"

namespace mf {
namespace {

TEST(ElementwiseTest, AllFiniteFindsOneBadNumberAnywhere) {
  for (const size_t count : {0, 1, 15, 16, 17, 33, 130}) {
    std::mt19937 rng(1);
    const std::vector<float> good = Uniform(rng, count, std::numeric_limits<float>::max() / 2);
    EXPECT_TRUE(AllFinite(Misaligned(good).data(), count));
    for (size_t i = 0; i < count; ++i) {
      for (const float bad : {kNaN, -kNaN, kInfinity, -kInfinity}) {
        std::vector<float> values = good;
        values[i] = bad;
        EXPECT_FALSE(AllFinite(Misaligned(values).data(), count)) << i;
      }
    }
  }
}

TEST(ElementwiseTest, AddIntoAddsAndStaysInside) {
  for (const size_t count : {0, 1, 15, 16, 17, 33, 130}) {
    std::mt19937 rng(2);
    const std::vector<float> a = Uniform(rng, count), b = Uniform(rng, count);
    std::vector<float> out = a;
    out.push_back(kPoison);
    AddInto(out.data(), Misaligned(b).data(), count);
    for (size_t i = 0; i < count; ++i) EXPECT_EQ(out[i], a[i] + b[i]);
    EXPECT_EQ(out[count], kPoison);
  }
}

TEST(GenerateTest, FollowsTheOracle) {
  double worst = 0;
  for (uint64_t row = 0; row < 400; ++row) {
    std::vector<float> out(512);
    GenerateNormal(RandomKey(1, 2), row << 30, 0, 512, 1, 1, out.data());
    for (uint32_t c = 0; c < 512; ++c) {
      worst = std::max(worst, std::abs(out[c] - RandomNormal(RandomKey(1, 2), row << 30, c)));
    }
  }
  EXPECT_LT(worst, 3e-6);
}

TEST(GenerateTest, HasTheMomentsOfANormal) {
  constexpr size_t kRows = 2000, kColumns = 1024;
  double sum = 0, square = 0, cube = 0, fourth = 0, neighbour = 0, largest = 0;
  std::vector<float> out(kColumns);
  for (uint64_t row = 0; row < kRows; ++row) {
    GenerateNormal(77, row, 0, kColumns, 1, 1, out.data());
    for (size_t c = 0; c < kColumns; ++c) {
      const double x = double{out[c]};
      sum += x;
      square += x * x;
      cube += x * x * x;
      fourth += x * x * x * x;
      if (c > 0) neighbour += x * double{out[c - 1]};
      largest = std::max(largest, std::abs(x));
    }
  }
  // Five standard errors; the variance of x^k is E x^2k - (E x^k)^2.
  constexpr double kCount = double{kRows} * kColumns;
  const double error = 5 / std::sqrt(kCount);
  EXPECT_NEAR(sum / kCount, 0, error);
  EXPECT_NEAR(square / kCount, 1, error * std::sqrt(2.0));
  EXPECT_NEAR(cube / kCount, 0, error * std::sqrt(15.0));
  EXPECT_NEAR(fourth / kCount, 3, error * std::sqrt(96.0));
  EXPECT_NEAR(neighbour / kCount, 0, error);
  EXPECT_GT(largest, 4.3);
  EXPECT_LT(largest, 6.7);  // sqrt(2 * 32 * ln 2)
}

TEST(GenerateTest, CutsDoNotMatterAndPaddingIsZero) {
  std::vector<float> whole(1024);
  GenerateNormal(5, 6, 0, 1024, 0.02, 0.5, whole.data());
  for (const size_t begin : {0, 16, 48, 112}) {
    for (const size_t count : {1, 3, 15, 16, 17, 33, 64, 65, 129, 400}) {
      std::vector<float> out(Padded(count) + 16, kPoison);
      GenerateNormal(5, 6, begin, begin + count, 0.02, 0.5, out.data());
      for (size_t i = 0; i < out.size(); ++i) {
        const float expected = i < count ? whole[begin + i] : i < Padded(count) ? 0 : kPoison;
        ASSERT_EQ(out[i], expected) << begin << " " << count << " " << i;
      }
    }
  }
  for (uint32_t c = 0; c < 1024; ++c) {
    ASSERT_NEAR(double{whole[c]}, 0.01 * RandomNormal(5, 6, c), 3e-8);
  }
}

/// A row's state, zeros of both signs and a denormal among it.
struct State {
  std::vector<float> w, m, v;
  explicit State(size_t count) {
    std::mt19937 rng(8);
    w = Uniform(rng, count);
    m = Uniform(rng, count, 0.01f);
    v = Uniform(rng, count, 0.001f);
    for (float& x : v) x = std::abs(x);
    m[0] = -0.0f;
    m[1] = v[1] = 0;
    w[2] = -0.0f;
    m[3] = 1e-41f;
  }
  std::vector<float> All() const {
    std::vector<float> all = w;
    all.insert(all.end(), m.begin(), m.end());
    all.insert(all.end(), v.begin(), v.end());
    return all;
  }
};

TEST(AdamTest, FollowsTheFormulaInDouble) {
  for (const size_t count : {16, 48, 512}) {
    State state(count);
    std::mt19937 rng(3);
    const OptimizerSettings settings;
    const double lr = 3e-3, decay = 0.1;
    std::vector<double> w(state.w.begin(), state.w.end()), m(state.m.begin(), state.m.end()),
        v(state.v.begin(), state.v.end());
    for (uint64_t step = 1; step <= 20; ++step) {
      const std::vector<float> gradient = Uniform(rng, count, 0.1f);
      AdamStep(settings, lr, decay, step, 0.5f, gradient.data(), state.w.data(), state.m.data(),
               state.v.data(), count);
      for (size_t i = 0; i < count; ++i) {
        const double g = double{gradient[i]} * 0.5, n = static_cast<double>(step);
        w[i] *= 1 - lr * decay;
        m[i] = settings.beta1 * m[i] + (1 - settings.beta1) * g;
        v[i] = settings.beta2 * v[i] + (1 - settings.beta2) * g * g;
        w[i] -= lr / (1 - std::pow(settings.beta1, n)) * m[i] /
                (std::sqrt(v[i]) / std::sqrt(1 - std::pow(settings.beta2, n)) + settings.eps);
        ASSERT_NEAR(double{state.w[i]}, w[i], 1e-6);
        ASSERT_NEAR(double{state.m[i]}, m[i], 1e-8);
        ASSERT_NEAR(double{state.v[i]}, v[i], 2e-6 * v[i] + 1e-12);
      }
    }
  }
}

TEST(AdamTest, CatchUpIsStepsWithZeroGradientBitForBit) {
  for (const size_t count : {16, 48, 512}) {
    for (const uint64_t from : {0, 3, 700}) {
      for (const size_t steps : {0, 1, 7, 256}) {
        State stepped(count), caught(count);
        const std::vector<float> zero(count, 0.0f);
        std::vector<float> lr(steps);
        for (size_t i = 0; i < steps; ++i) {
          lr[i] = 1e-3f / static_cast<float>(i + 1);
          AdamStep({}, double{lr[i]}, 0.1, from + 1 + i, 0.7f, zero.data(), stepped.w.data(),
                   stepped.m.data(), stepped.v.data(), count);
        }
        AdamCatchUp({}, lr, 0.1, from, 1, 0, caught.w.data(), caught.m.data(), caught.v.data(),
                    count);
        ExpectSameBits(stepped.All(), caught.All(), "state");
      }
    }
  }
}

TEST(AdamTest, CatchUpBeyondTheCapScales) {
  State state(32), expected(32);
  const std::vector<float> lr(5, 1e-3f);
  AdamCatchUp({}, lr, 0.1, 10, 1, 0, expected.w.data(), expected.m.data(), expected.v.data(), 32);
  AdamCatchUp({}, lr, 0.1, 10, 0.75, 30, state.w.data(), state.m.data(), state.v.data(), 32);
  for (size_t i = 0; i < 32; ++i) {
    EXPECT_EQ(state.w[i], expected.w[i] * 0.75f);
    EXPECT_EQ(state.m[i], expected.m[i] * static_cast<float>(std::pow(0.9, 30)));
    EXPECT_EQ(state.v[i], expected.v[i] * static_cast<float>(std::pow(0.95, 30)));
  }
}

TEST(OptimizerTest, AdagradIsItsFormula) {
  std::mt19937 rng(8);
  std::vector<float> w = Uniform(rng, 48), squares(48);
  std::vector<double> naive(w.begin(), w.end()), sums(48);
  for (int step = 0; step < 50; ++step) {
    std::vector<float> gradient = Uniform(rng, 48);
    gradient[7] = 0;  // and its sum stays 0
    AdagradStep(0.1, 0.01, 1e-10, 0.5f, gradient.data(), w.data(), squares.data(), 48);
    for (size_t i = 0; i < 48; ++i) {
      const double g = 0.5 * double{gradient[i]};
      sums[i] += g * g;
      naive[i] = naive[i] * (1 - 0.1 * 0.01) - 0.1 * g / (std::sqrt(sums[i]) + 1e-10);
    }
  }
  for (size_t i = 0; i < 48; ++i) {
    EXPECT_NEAR(w[i], naive[i], 50 * 2 * 0x1p-24);
    EXPECT_NEAR(squares[i], sums[i], 50 * 0x1p-24 * (1 + sums[i]));
  }
  EXPECT_EQ(squares[7], 0.0f);
}

// Goal: a split row is updated as the f32 row that it stands for, and read as its rounding.
TEST(OptimizerTest, SplitWeightsMoveAsF32) {
  for (const size_t count : {16, 48, 512}) {
    std::mt19937 rng(static_cast<uint32_t>(count));
    const std::vector<float> gradient = Uniform(rng, count), start = Uniform(rng, count);
    std::vector<float> w = start, m(count), v(count), other_m(count), other_v(count), a(count),
                       other_a(count);
    std::vector<uint16_t> high(count), read(count);
    std::vector<int16_t> low(count);
    const WeightRow split(high.data(), low.data());
    SplitRow(start.data(), split, count);
    const std::vector<float> rates = {1e-3f, 2e-3f};
    for (uint64_t step = 1; step < 20; step += 3) {
      AdamStep({}, 1e-3, 0.1, step, 0.3f, gradient.data(), w.data(), m.data(), v.data(), count);
      AdamStep({}, 1e-3, 0.1, step, 0.3f, gradient.data(), split, other_m.data(), other_v.data(),
               count);
      AdamCatchUp({}, rates, 0.1, step, 0.9, 2, w.data(), m.data(), v.data(), count);
      AdamCatchUp({}, rates, 0.1, step, 0.9, 2, split, other_m.data(), other_v.data(), count);
      AdagradStep(1e-2, 0.1, 1e-8, 0.3f, gradient.data(), w.data(), a.data(), count);
      AdagradStep(1e-2, 0.1, 1e-8, 0.3f, gradient.data(), split, other_a.data(), count);
      SgdStep(1e-2, 0.1, 0.3f, gradient.data(), w.data(), count);
      SgdStep(1e-2, 0.1, 0.3f, gradient.data(), split, count);
      ScaleWeights(w.data(), 0.99f, count);
      ScaleWeights(split, 0.99f, count);
    }
    std::vector<float> joined(count);
    JoinRow(split, joined.data(), count);
    ExpectSameBits(w, joined, "weights");
    ExpectSameBits(m, other_m, "m");
    ExpectSameBits(v, other_v, "v");
    for (const WeightRow& row : {WeightRow(w.data()), split}) {
      RoundScaledInto(read.data(), row, 1.0f, count);
      EXPECT_EQ(read, high);
      RoundScaledInto(read.data(), row, 0.7f, count);
      for (size_t i = 0; i < count; ++i) EXPECT_EQ(read[i], HighOf(w[i] * 0.7f));
    }
  }
}

TEST(OptimizerTest, SgdScaleAndSquares) {
  std::mt19937 rng(6);
  std::vector<float> w = Uniform(rng, 48), scaled(48);
  const std::vector<float> before = w, gradient = Uniform(rng, 48);
  SgdStep(0.1, 0.01, 0.5f, gradient.data(), w.data(), 48);
  ScaleInto(scaled.data(), gradient.data(), 3.0f, 48);
  for (size_t i = 0; i < 48; ++i) {
    const float decayed = before[i] * static_cast<float>(1 - 0.1 * 0.01);
    EXPECT_EQ(w[i], std::fma(-0.1f, gradient[i] * 0.5f, decayed));
    EXPECT_EQ(scaled[i], gradient[i] * 3.0f);
  }
  double lane[8] = {};
  for (int repeat = 0; repeat < 2; ++repeat) {
    for (size_t i = 0; i < 48; ++i) lane[i % 8] += double{gradient[i]} * double{gradient[i]};
  }
  SquareSum sum;
  const std::vector<ColumnRange> all = {{0, 48}};
  AddSquares(&sum, gradient.data(), all);
  AddSquares(&sum, gradient.data(), all);
  EXPECT_EQ(sum.Total(), std::accumulate(lane, lane + 8, 0.0));
}

TEST(TargetsTest, ElementwiseKernelsGiveTheSameBits) {
  for (const size_t count : {16, 48, 512}) {
    std::mt19937 rng(4);
    const std::vector<float> gradient = Uniform(rng, count);
    for (uint64_t row = 0; row < 50; ++row) {
      ExpectSameOnAllTargets<float>([&] {
        std::vector<float> out(count);
        GenerateNormal(3, row, 0, count, 0.02, 1, out.data());
        return out;
      });
    }
    ExpectSameOnAllTargets<float>([&] {
      State state(count);
      const std::vector<float> lr(9, 1e-3f);
      AdamStep({}, 1e-3, 0.1, 3, 0.3f, gradient.data(), state.w.data(), state.m.data(),
               state.v.data(), count);
      AdamCatchUp({}, lr, 0.1, 3, 0.9, 2, state.w.data(), state.m.data(), state.v.data(), count);
      SgdStep(0.1, 0.1, 0.3f, gradient.data(), state.w.data(), count);
      AdagradStep(0.1, 0.1, 1e-8, 0.3f, gradient.data(), state.w.data(), state.v.data(), count);
      AddInto(state.w.data(), Misaligned(gradient).data(), count);
      ScaleInto(state.m.data(), state.m.data(), 1.1f, count);
      return state.All();
    });
    ExpectSameOnAllTargets<uint16_t>([&] {
      State state(count);
      std::vector<uint16_t> high(count), low(count), out = high;
      const WeightRow split(high.data(), reinterpret_cast<int16_t*>(low.data()));
      SplitRow(state.w.data(), split, count);
      AdamStep({}, 1e-3, 0.1, 3, 0.3f, gradient.data(), split, state.m.data(), state.v.data(),
               count);
      RoundScaledInto(out.data(), split, 1.1f, count);
      out.insert(out.end(), high.begin(), high.end());
      out.insert(out.end(), low.begin(), low.end());
      return out;
    });
    ExpectSameOnAllTargets<double>([&] {
      SquareSum sum;
      const std::vector<ColumnRange> all = {{0, static_cast<int64_t>(count)}};
      AddSquares(&sum, gradient.data(), all);
      const bool finite = AllFinite(Misaligned(gradient).data(), count);
      return std::vector<double>{sum.Total(), finite ? 1.0 : 0.0};
    });
  }
}

}  // namespace
}  // namespace mf
