// Every operation of the CPU backend, forward and backward, against the double formulas of the
// oracle, over odd shapes: below, at and beyond a vector, a chunk of 64 tokens, a tile of queries.
//
// Tolerances are multiples of eps relative to the largest expected number, stated beside each test;
// sums over n numbers in float lanes err by about sqrt(n) eps, and cancellation is what the rest
// pays for.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/base/random.h"
#include "tests/support/oracle/oracle_ops.h"
#include "worker/compute/cpu/attention.h"
#include "worker/compute/cpu/chunks.h"
#include "worker/compute/cpu/embedding.h"
#include "worker/compute/cpu/gelu.h"
#include "worker/compute/cpu/matmul.h"
#include "worker/compute/cpu/norm.h"
#include "worker/compute/cpu/rotary.h"
#include "worker/compute/cpu/softmax.h"

namespace mf {
namespace {

constexpr double kEps = std::numeric_limits<float>::epsilon();

std::vector<float> Random(size_t count, uint64_t seed, double spread = 1) {
  std::vector<float> out(count);
  for (size_t i = 0; i < count; ++i) {
    out[i] = static_cast<float>(spread * RandomNormal(seed, i, 0));
  }
  return out;
}

std::vector<double> Wide(const std::vector<float>& x) { return {x.begin(), x.end()}; }
oracle::Matrix Wide(const std::vector<float>& x, size_t columns) {
  return oracle::Matrix(x.size() / columns, columns, Wide(x));
}

/// In eps, relative to the largest expected number.
double Error(const std::vector<float>& got, const std::vector<double>& expected) {
  if (got.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  double largest = 1e-30;
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = std::abs(static_cast<double>(got[i]) - expected[i]);
    if (!(difference <= worst)) worst = difference;
    largest = std::max(largest, std::abs(expected[i]));
  }
  return worst / largest / kEps;
}

TEST(NormTest, ForwardAndBackward) {
  double worst = 0;
  for (const NormKind kind : {NormKind::kRmsNorm, NormKind::kLayerNorm}) {
    for (const size_t width : {2, 3, 15, 16, 17, 31, 33, 128, 1000}) {
      const size_t rows = 5;
      const bool layer = kind == NormKind::kLayerNorm;
      std::vector<float> x = Random(rows * width, 1);
      // One row so small that eps matters.
      for (size_t i = 0; i < width; ++i) x[width + i] = 1e-3f * x[width + i] + 0.01f;
      const std::vector<float> gain = Random(width, 2);
      const std::vector<float> bias = Random(width, 3);
      const std::vector<float> dy = Random(rows * width, 4);
      const std::vector<float> residual = Random(rows * width, 5);
      std::vector<float> y(rows * width), dx(rows * width), dgain(width, 9), dbias(width, 9);
      const NormParameters norm{kind, width, gain.data(), layer ? bias.data() : nullptr};
      NormRows(norm, x.data(), rows, y.data());
      NormBackwardRows(norm, x.data(), dy.data(), rows,
                       {residual.data(), dx.data(), dgain.data(), layer ? dbias.data() : nullptr});
      const oracle::Matrix wide_x = Wide(x, width);
      const oracle::NormGradient expected =
          oracle::NormBackward(kind, wide_x, Wide(dy, width), Wide(gain));
      const auto check = [&](const std::vector<float>& got, const std::vector<double>& want) {
        const double error = Error(got, want);
        EXPECT_LT(error, 50) << "width " << width;  // a row near its eps divides by 0.003
        worst = std::max(worst, error);
      };
      check(y, oracle::Norm(kind, wide_x, Wide(gain), layer ? Wide(bias) : std::vector<double>())
                   .values);
      check(dx, oracle::Add(expected.dx, Wide(residual, width)).values);
      check(dgain, expected.dgain);
      if (layer) check(dbias, expected.dbias);
    }
  }
  std::printf("worst error %.1f eps\n", worst);
}

TEST(MatmulTest, AllTransposesAndTails) {
  ThreadPool pool(2);
  double worst = 0;
  const auto matrix = [](const std::vector<float>& x, size_t rows, size_t columns, Transpose t) {
    return t == Transpose::kYes ? oracle::Transpose(Wide(x, rows)) : Wide(x, columns);
  };
  struct Shape {
    size_t m, n, k;
  };
  for (const Shape s : {Shape{1, 1, 1}, {3, 5, 7}, {65, 257, 31}, {64, 256, 33}, {130, 300, 129}}) {
    for (const Transpose ta : {Transpose::kNo, Transpose::kYes}) {
      for (const Transpose tb : {Transpose::kNo, Transpose::kYes}) {
        for (const float beta : {0.0f, 1.0f}) {
          const std::vector<float> a = Random(s.m * s.k, 1);
          const std::vector<float> b = Random(s.k * s.n, 2);
          std::vector<float> c = Random(s.m * s.n, 3);
          oracle::Matrix expected =
              oracle::Multiply(matrix(a, s.m, s.k, ta), matrix(b, s.k, s.n, tb));
          for (size_t i = 0; i < c.size(); ++i) {
            expected.values[i] = 0.5 * expected.values[i] + static_cast<double>(beta * c[i]);
          }
          MultiplyTiled({.m = s.m,
                         .n = s.n,
                         .k = s.k,
                         .a = {a.data(), ta == Transpose::kYes ? s.m : s.k, ta},
                         .b = {b.data(), tb == Transpose::kYes ? s.k : s.n, tb},
                         .c = c.data(),
                         .c_stride = s.n,
                         .alpha = 0.5f,
                         .beta = beta},
                        pool);
          const double error = Error(c, expected.values);
          EXPECT_LT(error, 10) << s.m << " x " << s.n << " x " << s.k;
          worst = std::max(worst, error);
        }
      }
    }
  }
  std::printf("worst error %.1f eps\n", worst);
}

TEST(RotaryTest, InverseUndoesAndLengthStays) {
  for (const size_t head_dim : {4, 12, 32, 33}) {
    const Rotary rotary(head_dim, 0.25, 100);
    const std::vector<float> x = Random(3 * head_dim, 1);
    std::vector<float> y = x;
    rotary.Apply(99, 3, y.data());
    const size_t pairs = head_dim / 8;  // floor(head_dim * 0.25 / 2)
    EXPECT_EQ(pairs > 0, x != y);
    for (size_t i = 2 * pairs; i < head_dim; ++i) EXPECT_EQ(x[i], y[i]);
    rotary.ApplyInverse(99, 3, y.data());
    EXPECT_LT(Error(y, Wide(x)), 4);
  }
}

TEST(AttentionTest, ForwardAndBackward) {
  double worst = 0;
  struct Shape {
    size_t sequences, length, heads, head_dim;
  };
  for (const Shape s : {Shape{1, 1, 1, 4},
                        {2, 5, 3, 12},
                        {1, 63, 1, 8},
                        {2, 64, 2, 16},
                        {1, 65, 2, 33},
                        {1, 131, 1, 20}}) {
    ThreadPool pool(2);
    ThreadScratch scratch(2);
    const AttentionShape shape{s.sequences, s.length, s.heads, s.head_dim};
    const size_t d = shape.width();
    const std::vector<float> qkv = Random(shape.tokens() * 3 * d, 1);
    const std::vector<float> dout = Random(shape.tokens() * d, 2);
    std::vector<float> out(dout.size()), log_sums(shape.tokens() * s.heads), dqkv(qkv.size());
    AttentionForward(shape, qkv.data(), pool, scratch, out.data(), log_sums.data());
    AttentionBackward(shape, {qkv.data(), out.data(), log_sums.data()}, dout.data(), pool, scratch,
                      dqkv.data());
    // The oracle rotates by itself: with no rotated numbers it takes qkv as it is.
    const oracle::AttentionOptions options{s.sequences, s.length, s.heads, 0};
    const oracle::Matrix wide = Wide(qkv, 3 * d);
    const double forward = Error(out, oracle::Attention(options, wide).values);
    const double backward =
        Error(dqkv, oracle::AttentionBackward(options, wide, Wide(dout, d)).values);
    EXPECT_LT(forward, 10) << s.length;
    EXPECT_LT(backward, 20) << s.length;  // P * (dP - <dO, O>) cancels
    worst = std::max({worst, forward, backward});
  }
  std::printf("worst error %.1f eps\n", worst);
}

TEST(CrossEntropyTest, ForwardAndBackward) {
  for (const size_t vocabulary : {1, 2, 15, 16, 17, 257, 5003}) {
    for (const double spread : {1.0, 30.0}) {  // 30: most probabilities vanish
      const std::vector<float> logits = Random(vocabulary, 1, spread);
      const size_t target = vocabulary / 2;
      const oracle::Matrix expected = oracle::LogSoftmax(Wide(logits, vocabulary));
      const double want = expected.at(0, target);
      std::vector<double> gradient = expected.values;
      for (double& g : gradient) g = 0.25 * std::exp(g);
      gradient[target] -= 0.25;
      std::vector<float> got = logits;
      const double logprob = CrossEntropyRow(got.data(), vocabulary, target, 0.25f);
      const double tolerance = 4 * kEps * (1 + 4 * spread);  // of the logits' size
      EXPECT_NEAR(logprob, want, tolerance) << vocabulary;
      EXPECT_EQ(logprob, LogProbability(logits.data(), vocabulary, target));
      for (size_t i = 0; i < vocabulary; ++i) EXPECT_NEAR(got[i], gradient[i], 0.25 * tolerance);
    }
  }
}

TEST(CrossEntropyTest, NotANumberReachesTheGradient) {
  for (const size_t at : {0, 5, 36}) {
    std::vector<float> logits = Random(37, 1);
    logits[at] = std::numeric_limits<float>::quiet_NaN();
    CrossEntropyRow(logits.data(), 37, 2, 1.0f);
    EXPECT_TRUE(std::isnan(logits[at]));
  }
}

TEST(GeluTest, ForwardAndBackward) {
  for (const size_t count : {1, 15, 16, 17, 4099}) {
    std::vector<float> x = Random(count, 1, 2);
    x[0] = -9;
    const std::vector<float> dy = Random(count, 2);
    std::vector<float> y(count), dx(count);
    Gelu(x.data(), count, y.data());
    GeluBackward(x.data(), dy.data(), count, dx.data());
    const oracle::Matrix expected = oracle::Gelu(Wide(x, count));
    for (size_t i = 0; i < count; ++i) {
      // Of x below 0 too, where x * Phi(x) vanishes: no cancellation.
      EXPECT_NEAR(y[i], expected.values[i],
                  (4 + x[i] * x[i]) * kEps * std::abs(expected.values[i]) + 1e-37)
          << x[i];
    }
    EXPECT_LT(Error(dx, oracle::GeluBackward(Wide(x, count), Wide(dy, count)).values), 4);
  }
}

TEST(EmbeddingTest, ForwardAndBackward) {
  ThreadPool pool(2);
  for (const size_t width : {1, 31, 32, 33, 100}) {
    const EmbeddingShape shape{.tokens = 131, .vocabulary = 7, .width = width};
    std::vector<uint32_t> ids(shape.tokens);
    // Tokens 2, 5 and 6 do not occur.
    for (size_t t = 0; t < ids.size(); ++t) ids[t] = static_cast<uint32_t>(t * t % 6);
    const std::vector<float> matrix = Random(7 * width, 1);
    const std::vector<float> dx = Random(shape.tokens * width, 2);
    const std::vector<uint64_t> distinct = DistinctTokens(ids);
    EXPECT_EQ(distinct, (std::vector<uint64_t>{0, 1, 3, 4}));
    std::vector<float> x(dx.size()), drows(distinct.size() * width, 9);
    EmbeddingForward(shape, matrix.data(), ids.data(), pool, x.data());
    EmbeddingBackward(shape, ids.data(), distinct, dx.data(), pool, drows.data());
    const std::vector<size_t> row_of = {0, 1, 0, 2, 3};
    std::vector<double> expected(drows.size(), 0.0);
    for (size_t t = 0; t < ids.size(); ++t) {
      for (size_t i = 0; i < width; ++i) {
        EXPECT_EQ(x[t * width + i], matrix[ids[t] * width + i]);
        expected[row_of[ids[t]] * width + i] += static_cast<double>(dx[t * width + i]);
      }
    }
    EXPECT_LT(Error(drows, expected), 10);
  }
}

TEST(ChunkSumsTest, SumsColumns) {
  for (const size_t tokens : {1, 64, 65, 200}) {
    ThreadPool pool(2);
    const std::vector<float> x = Random(tokens * 5, 1);
    ChunkSums sums;
    sums.Reset(tokens, 5);
    ForChunks(tokens, pool, [&](const Chunk& chunk) {
      SumRows(x.data() + chunk.begin * 5, chunk.count, 5, sums.At(chunk.index));
    });
    std::vector<float> all, last;
    sums.Total(0, 5, &all);
    sums.Total(3, 5, &last);
    EXPECT_LT(Error(all, oracle::ColumnSums(Wide(x, 5))), 10);
    EXPECT_EQ(last, std::vector<float>(all.begin() + 3, all.end()));
  }
}

}  // namespace
}  // namespace mf
