// The hash with the norm before it against the oracle's formulas: over bits, probes, scores, index
// sizes, and tails of the blocks of 32 tokens and 32 tables.
#include "worker/compute/cuda/kernels/hash.h"

#include <cmath>

#include "tests/gpu/ops/harness.h"
#include "tests/support/oracle/oracle_ops.h"

namespace mf::gpu_test {
namespace {

struct Case {
  size_t tables, bits, probes, tokens;
  double temperature;
};

constexpr Case kCases[] = {{2, 1, 1, 1, 1},    {3, 1, 2, 15, 1},  {3, 4, 1, 32, 0.5},
                           {3, 4, 3, 33, 1},   {16, 8, 2, 64, 1}, {33, 8, 9, 31, 2},
                           {64, 8, 1, 100, 1}, {5, 10, 3, 33, 1}, {2, 17, 3, 20, 1},
                           {1, 30, 4, 5, 3},   {40, 3, 4, 65, 1}, {1, 32, 33, 9, 4}};

// A weight is a product of `bits` factors and a sum as long, of numbers that a norm made.
constexpr double kEpsilons = 100;
// z is within this many eps of what the oracle has; nearer to the border either bucket is right.
constexpr double kBorder = 50 * 1.2e-7;

template <class T>
std::vector<uint32_t> Widened(const std::vector<uint8_t>& bytes) {
  std::vector<uint32_t> out(bytes.size() / sizeof(T));
  for (size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, &bytes[i * sizeof(T)], sizeof(T));
    out[i] = value;
  }
  return out;
}

std::vector<uint32_t> Indices(const Array<uint8_t>& indices, int bytes) {
  const std::vector<uint8_t> all = indices.Get();
  if (bytes == 1) return Widened<uint8_t>(all);
  if (bytes == 2) return Widened<uint16_t>(all);
  return Widened<uint32_t>(all);
}

void Check(const Case& c, Score score, NormKind kind) {
  const HashParameters hash{.tables = c.tables,
                            .bits = c.bits,
                            .probes = c.probes,
                            .score = score,
                            .temperature = static_cast<float>(c.temperature),
                            .index_bytes = c.bits <= 8    ? 1
                                           : c.bits <= 16 ? 2
                                                          : 4};
  const oracle::HashOptions options{c.tables, c.bits, c.probes, score, c.temperature};
  const size_t width = hash.width();
  const size_t numbers = hash.pairs() * c.tokens;
  const std::vector<float> x = RandomNormals(c.tokens * width);
  const std::vector<float> gain = RandomNormals(width), bias = RandomNormals(width, 0.1);
  const std::vector<float> dweights = RandomNormals(numbers);
  const Array<float> d_x(x), d_gain(gain), d_bias(bias), d_dweights(dweights);
  const Array<float> weights(numbers), dz(c.tokens * width);
  const Array<uint8_t> indices(numbers * static_cast<size_t>(hash.index_bytes));
  const bool layer = kind == NormKind::kLayerNorm;
  const NormParameters norm{kind, width, d_gain.data(), layer ? d_bias.data() : nullptr};
  cuda::HashForward(Stream(), norm, hash, d_x.data(), c.tokens, indices.data(), weights.data());
  cuda::HashBackward(Stream(), norm, hash, d_x.data(), c.tokens, d_dweights.data(), dz.data());

  const oracle::Matrix z = oracle::Norm(kind, oracle::Matrix(c.tokens, width, Wide(x)), Wide(gain),
                                        layer ? Wide(bias) : std::vector<double>());
  const std::vector<uint32_t> got = Indices(indices, hash.index_bytes);
  const oracle::HashResult expected = oracle::Hash(options, z);
  size_t wrong = 0;
  for (size_t at = 0; at < got.size(); ++at) {
    const size_t table = at / c.tokens / c.probes;
    const bool near_border = expected.border[table * c.tokens + at % c.tokens] < kBorder;
    wrong += got[at] != expected.buckets[at] && !near_border;
  }
  Expect(wrong == 0, "%zu tables of %zu bits, %zu probes, %zu tokens: %zu wrong buckets", c.tables,
         c.bits, c.probes, c.tokens, wrong);
  const double weight_error = Error(weights.Get(), oracle::HashWeights(options, z, got));
  Expect(weight_error < kEpsilons, "%zu bits, %zu probes: weights %g eps", c.bits, c.probes,
         weight_error);
  const double gradient_error =
      Error(dz.Get(), oracle::HashBackward(options, z, got, Wide(dweights)).values);
  Expect(gradient_error < kEpsilons, "%zu bits, %zu probes: dz %g eps", c.bits, c.probes,
         gradient_error);
}

}  // namespace

GPU_TEST(Hash) {
  for (const Score score : {Score::kSoftmax, Score::kScaled}) {
    for (const NormKind kind : {NormKind::kRmsNorm, NormKind::kLayerNorm}) {
      for (const Case& c : kCases) Check(c, score, kind);
    }
  }
}

GPU_TEST(HashTiesAndNan) {
  // sign(0) = sign(-0) = +1; |z| ties go to the lowest bit. RMSNorm keeps zeros and signs.
  const HashParameters hash{.tables = 2, .bits = 4, .probes = 4};
  const float nan = std::nanf("");
  const std::vector<float> gain(8, 1.0f);
  const auto buckets = [&](const std::vector<float>& x, std::vector<float>* weights) {
    const Array<float> d_x(x), d_gain(gain), d_weights(8);
    const Array<uint8_t> indices(8);
    cuda::HashForward(Stream(), {NormKind::kRmsNorm, 8, d_gain.data(), nullptr}, hash, d_x.data(),
                      1, indices.data(), d_weights.data());
    *weights = d_weights.Get();
    return indices.Get();
  };
  std::vector<float> weights;
  const std::vector<uint8_t> ties = buckets({0.0f, -0.0f, -1, 1, 1, 1, 1, 1}, &weights);
  const std::vector<uint8_t> expected{0b1011, 0b1010, 0b1001, 0b1111,
                                      0b1111, 0b1110, 0b1101, 0b1011};
  Expect(ties == expected, "ties go to other bits");
  const std::vector<uint8_t> with_nan = buckets({nan, 1, 1, 1, 1, 1, 1, 1}, &weights);
  bool all_nan = true;
  for (const float weight : weights) all_nan = all_nan && std::isnan(weight);
  Expect(all_nan, "a NaN in a row does not show in its weights");
  for (const uint8_t bucket : with_nan) Expect(bucket < 16, "bucket %d of 16", bucket);
}

}  // namespace mf::gpu_test
