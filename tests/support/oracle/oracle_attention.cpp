#include <cmath>

#include "tests/support/oracle/oracle_ops.h"

namespace mf::oracle {
namespace {

/// Rotates queries and keys (columns [0, 2d)) by `direction` times the angle of their position.
Matrix Rotate(const AttentionOptions& options, const Matrix& qkv, double direction) {
  const size_t d = qkv.columns / 3;
  const size_t head_dim = d / options.heads;
  const size_t half =
      static_cast<size_t>(std::floor(static_cast<double>(head_dim) * options.rotary_pct / 2));
  Matrix out = qkv;
  for (size_t row = 0; row < qkv.rows; ++row) {
    const double position = static_cast<double>(row % options.length);
    for (size_t start = 0; start < 2 * d; start += head_dim) {
      for (size_t i = 0; i < half; ++i) {
        const double exponent = -2.0 * static_cast<double>(i) / (2.0 * static_cast<double>(half));
        const double angle = direction * position * std::pow(10000.0, exponent);
        const double a = qkv.at(row, start + i);
        const double b = qkv.at(row, start + half + i);
        out.at(row, start + i) = a * std::cos(angle) - b * std::sin(angle);
        out.at(row, start + half + i) = b * std::cos(angle) + a * std::sin(angle);
      }
    }
  }
  return out;
}

/// One head of one sequence, rotated.
class Head {
 public:
  Head(const AttentionOptions& options, const Matrix& rotated, size_t sequence, size_t head)
      : x(rotated),
        d(rotated.columns / 3),
        head_dim(d / options.heads),
        first(sequence * options.length),
        column(head * head_dim),
        scale(1 / std::sqrt(static_cast<double>(head_dim))) {}

  /// Probabilities of keys 0..query.
  std::vector<double> Probabilities(size_t query) const {
    std::vector<double> p(query + 1);
    double maximum = -1e300;
    for (size_t key = 0; key <= query; ++key) {
      for (size_t i = 0; i < head_dim; ++i) {
        p[key] += scale * x.at(first + query, column + i) * x.at(first + key, d + column + i);
      }
      maximum = std::max(maximum, p[key]);
    }
    double sum = 0;
    for (double& value : p) sum += value = std::exp(value - maximum);
    for (double& value : p) value /= sum;
    return p;
  }

  const Matrix& x;
  const size_t d, head_dim, first, column;
  const double scale;
};

void BackwardQuery(const Head& head, size_t query, const Matrix& dout, Matrix* dx) {
  const std::vector<double> p = head.Probabilities(query);
  std::vector<double> dp(query + 1);
  double mean = 0;
  const size_t row = head.first + query;
  for (size_t key = 0; key <= query; ++key) {
    for (size_t i = 0; i < head.head_dim; ++i) {
      const double g = dout.at(row, head.column + i);
      const size_t value_column = 2 * head.d + head.column + i;
      dp[key] += g * head.x.at(head.first + key, value_column);
      dx->at(head.first + key, value_column) += p[key] * g;
    }
    mean += p[key] * dp[key];
  }
  for (size_t key = 0; key <= query; ++key) {
    const double ds = p[key] * (dp[key] - mean) * head.scale;
    for (size_t i = 0; i < head.head_dim; ++i) {
      const size_t q = head.column + i;
      const size_t k = head.d + head.column + i;
      dx->at(row, q) += ds * head.x.at(head.first + key, k);
      dx->at(head.first + key, k) += ds * head.x.at(row, q);
    }
  }
}

}  // namespace

Matrix Attention(const AttentionOptions& options, const Matrix& qkv) {
  const Matrix rotated = Rotate(options, qkv, 1);
  Matrix out(qkv.rows, qkv.columns / 3);
  for (size_t sequence = 0; sequence < options.sequences; ++sequence) {
    for (size_t h = 0; h < options.heads; ++h) {
      const Head head(options, rotated, sequence, h);
      for (size_t query = 0; query < options.length; ++query) {
        const std::vector<double> p = head.Probabilities(query);
        for (size_t key = 0; key <= query; ++key) {
          for (size_t i = 0; i < head.head_dim; ++i) {
            out.at(head.first + query, head.column + i) +=
                p[key] * rotated.at(head.first + key, 2 * head.d + head.column + i);
          }
        }
      }
    }
  }
  return out;
}

Matrix AttentionBackward(const AttentionOptions& options, const Matrix& qkv, const Matrix& dout) {
  const Matrix rotated = Rotate(options, qkv, 1);
  Matrix dx(qkv.rows, qkv.columns);
  for (size_t sequence = 0; sequence < options.sequences; ++sequence) {
    for (size_t h = 0; h < options.heads; ++h) {
      const Head head(options, rotated, sequence, h);
      for (size_t query = 0; query < options.length; ++query) {
        BackwardQuery(head, query, dout, &dx);
      }
    }
  }
  return Rotate(options, dx, -1);
}

}  // namespace mf::oracle
