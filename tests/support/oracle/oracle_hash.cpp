#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/support/oracle/oracle_ops.h"

namespace mf::oracle {
namespace {

double SignOf(uint32_t bucket, size_t i) { return (bucket >> i & 1) != 0 ? 1.0 : -1.0; }

/// Eq. 9 for any bucket b: p_b = prod exp(s_i z_i / t) / (exp(z_i / t) + exp(-z_i / t)).
double Probability(const HashOptions& options, const double* z, uint32_t bucket) {
  double p = 1;
  for (size_t i = 0; i < options.bits; ++i) {
    p /= 1 + std::exp(-2 * SignOf(bucket, i) * z[i] / options.temperature);
  }
  return p;
}

double Similarity(const HashOptions& options, const double* z, uint32_t bucket) {
  double sim = 0;
  for (size_t i = 0; i < options.bits; ++i) sim += SignOf(bucket, i) * z[i];
  return sim;
}

double Weight(const HashOptions& options, const double* z, uint32_t bucket) {
  const double p = Probability(options, z, bucket);
  return options.score == Score::kScaled ? p * Similarity(options, z, bucket) : p;
}

}  // namespace

HashResult Hash(const HashOptions& options, const Matrix& z) {
  const size_t tokens = z.rows;
  HashResult result;
  result.buckets.resize(options.tables * options.probes * tokens);
  result.border.resize(options.tables * tokens);
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t k = 0; k < options.tables; ++k) {
      const double* zk = &z.values[t * z.columns + k * options.bits];
      uint32_t bucket = 0;
      for (size_t i = 0; i < options.bits; ++i) bucket |= uint32_t{zk[i] >= 0} << i;
      std::vector<size_t> order(options.bits);
      std::iota(order.begin(), order.end(), size_t{0});
      std::stable_sort(order.begin(), order.end(),
                       [&](size_t a, size_t b) { return std::abs(zk[a]) < std::abs(zk[b]); });
      result.buckets[k * options.probes * tokens + t] = bucket;
      for (size_t j = 1; j < options.probes; ++j) {
        result.buckets[(k * options.probes + j) * tokens + t] =
            bucket ^ (uint32_t{1} << order[j - 1]);
      }
      double border = std::abs(zk[order[0]]);
      const size_t flips = options.probes - 1;
      if (flips > 0 && flips < options.bits) {
        border = std::min(border, std::abs(zk[order[flips]]) - std::abs(zk[order[flips - 1]]));
      }
      result.border[k * tokens + t] = border;
    }
  }
  result.weights = HashWeights(options, z, result.buckets);
  return result;
}

std::vector<double> HashWeights(const HashOptions& options, const Matrix& z,
                                const std::vector<uint32_t>& buckets) {
  std::vector<double> weights(buckets.size());
  for (size_t pair = 0; pair < options.tables * options.probes; ++pair) {
    for (size_t t = 0; t < z.rows; ++t) {
      const double* zk = &z.values[t * z.columns + pair / options.probes * options.bits];
      weights[pair * z.rows + t] = Weight(options, zk, buckets[pair * z.rows + t]);
    }
  }
  return weights;
}

Matrix HashBackward(const HashOptions& options, const Matrix& z,
                    const std::vector<uint32_t>& buckets, const std::vector<double>& dweights) {
  Matrix dz(z.rows, z.columns);
  for (size_t pair = 0; pair < options.tables * options.probes; ++pair) {
    for (size_t t = 0; t < z.rows; ++t) {
      const size_t column = pair / options.probes * options.bits;
      const double* zk = &z.values[t * z.columns + column];
      const uint32_t bucket = buckets[pair * z.rows + t];
      const double g = dweights[pair * z.rows + t];
      const double p = Probability(options, zk, bucket);
      const double sim = Similarity(options, zk, bucket);
      for (size_t i = 0; i < options.bits; ++i) {
        const double s = SignOf(bucket, i);
        const double dp = p / options.temperature * (s - std::tanh(zk[i] / options.temperature));
        dz.at(t, column + i) += g * (options.score == Score::kScaled ? p * s + sim * dp : dp);
      }
    }
  }
  return dz;
}

}  // namespace mf::oracle
