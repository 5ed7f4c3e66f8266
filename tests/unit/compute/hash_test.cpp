// The hash of memory layers against the double formulas: indices exactly, weights and gradients to
// rounding, over bits, probes, scores, index sizes and tails of the token vector.
#include "worker/compute/cpu/hash.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/base/random.h"
#include "tests/support/oracle/oracle_ops.h"

namespace mf {
namespace {

constexpr double kEps = std::numeric_limits<float>::epsilon();
// A weight is a product of `bits` factors and a sum as long; the exponentials err by an ulp or two.
constexpr double kTolerance = 30 * kEps;

struct Case {
  size_t tables, bits, probes, tokens;
  double temperature;
};

constexpr Case kCases[] = {{1, 1, 1, 1, 1},   {1, 1, 2, 15, 1},  {3, 4, 1, 16, 0.5},
                           {3, 4, 3, 17, 1},  {2, 8, 2, 64, 1},  {2, 8, 9, 31, 2},
                           {5, 10, 3, 33, 1}, {2, 17, 3, 20, 1}, {1, 30, 4, 5, 3}};

HashParameters ParametersOf(const Case& c, Score score) {
  return {.tables = c.tables,
          .bits = c.bits,
          .probes = c.probes,
          .score = score,
          .temperature = static_cast<float>(c.temperature),
          .index_bytes = c.bits <= 8    ? 1
                         : c.bits <= 16 ? 2
                                        : 4};
}

oracle::HashOptions OptionsOf(const Case& c, Score score) {
  return {c.tables, c.bits, c.probes, score, c.temperature};
}

std::vector<uint32_t> IndicesOf(const Hashes& hashes) {
  std::vector<uint32_t> out;
  for (size_t i = 0; i < hashes.pairs * hashes.tokens; ++i) {
    out.push_back(hashes.index_bytes == 1   ? hashes.indices.as<uint8_t>()[i]
                  : hashes.index_bytes == 2 ? hashes.indices.as<uint16_t>()[i]
                                            : hashes.indices.as<uint32_t>()[i]);
  }
  return out;
}

std::vector<float> Random(size_t count, uint64_t seed) {
  std::vector<float> out(count);
  for (size_t i = 0; i < count; ++i) out[i] = static_cast<float>(RandomNormal(seed, i, 0));
  return out;
}

/// All tokens, in pieces that do not match the vector length.
Hashes HashAll(const HashParameters& hash, const std::vector<float>& z) {
  const size_t tokens = z.size() / hash.width();
  Hashes out = MakeHashes(hash, tokens);
  for (size_t begin = 0; begin < tokens; begin += 19) {
    HashRows(hash, z.data() + begin * hash.width(), begin, std::min<size_t>(19, tokens - begin),
             out);
  }
  return out;
}

void ExpectNear(const float* got, const std::vector<double>& expected, const std::string& what) {
  double largest = 0;
  for (const double e : expected) largest = std::max(largest, std::abs(e));
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(got[i], expected[i], kTolerance * largest) << what << " " << i;
  }
}

TEST(HashTest, AgreesWithFormulas) {
  for (const Score score : {Score::kSoftmax, Score::kScaled}) {
    for (const Case& c : kCases) {
      const HashParameters hash = ParametersOf(c, score);
      const std::string what = std::to_string(c.bits) + " bits, probes " + std::to_string(c.probes);
      const std::vector<float> z = Random(c.tokens * hash.width(), c.bits);
      const oracle::Matrix wide(c.tokens, hash.width(), {z.begin(), z.end()});
      const oracle::HashResult expected = oracle::Hash(OptionsOf(c, score), wide);
      const Hashes got = HashAll(hash, z);
      EXPECT_EQ(IndicesOf(got), expected.buckets) << what;
      ExpectNear(got.weights.as<float>(), expected.weights, what + " weights");

      const std::vector<float> g = Random(hash.pairs() * c.tokens, 77);
      std::vector<float> dz(z.size(), 9);
      for (size_t begin = 0; begin < c.tokens; begin += 19) {
        HashBackwardRows(hash, z.data() + begin * hash.width(), begin,
                         std::min<size_t>(19, c.tokens - begin), c.tokens, g.data(),
                         dz.data() + begin * hash.width());
      }
      ExpectNear(
          dz.data(),
          oracle::HashBackward(OptionsOf(c, score), wide, expected.buckets, {g.begin(), g.end()})
              .values,
          what + " dz");
    }
  }
}

TEST(HashTest, BorderAndTies) {
  const Case c{1, 4, 4, 1, 1};
  const HashParameters hash = ParametersOf(c, Score::kScaled);
  // sign(0) = sign(-0) = +1; |z| ties go to the lowest bit: 0 and 1 first, then 2 and 3.
  const std::vector<uint32_t> got = IndicesOf(HashAll(hash, {0.0f, -0.0f, -1.0f, 1.0f}));
  EXPECT_EQ(got, (std::vector<uint32_t>{0b1011, 0b1010, 0b1001, 0b1111}));
}

TEST(HashTest, FarFromTheBorder) {
  // exp(-2|z|/t) underflows: weights are 1 or |z| sums, gradients finite.
  const Case c{1, 3, 2, 1, 1};
  for (const Score score : {Score::kSoftmax, Score::kScaled}) {
    const HashParameters hash = ParametersOf(c, score);
    const std::vector<float> z{1e4f, -2e4f, 3e4f};
    const Hashes got = HashAll(hash, z);
    EXPECT_EQ(IndicesOf(got), (std::vector<uint32_t>{0b101, 0b100}));
    EXPECT_EQ(got.weights.as<float>()[0], score == Score::kSoftmax ? 1.0f : 6e4f);
    EXPECT_EQ(got.weights.as<float>()[1], 0.0f);
    const std::vector<float> g{1, 1};
    std::vector<float> dz(3);
    HashBackwardRows(hash, z.data(), 0, 1, 1, g.data(), dz.data());
    const float slope = score == Score::kSoftmax ? 0.0f : 1.0f;
    EXPECT_EQ(dz, (std::vector<float>{slope, -slope, slope}));
  }
}

TEST(HashTest, NotANumberGivesValidBucketsAndWeightsThatShowIt) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Score score : {Score::kSoftmax, Score::kScaled}) {
    const Case c{1, 4, 5, 1, 1};
    const Hashes got = HashAll(ParametersOf(c, score), {nan, 1.0f, nan, -1.0f});
    std::vector<uint32_t> indices = IndicesOf(got);
    EXPECT_EQ(indices, (std::vector<uint32_t>{0b0010, 0b0000, 0b1010, 0b0011, 0b0110}));
    for (size_t pair = 0; pair < 5; ++pair) EXPECT_TRUE(std::isnan(got.weights.as<float>()[pair]));
  }
}

}  // namespace
}  // namespace mf
