#include "tests/support/oracle/oracle_ops.h"

#include <cmath>
#include <numbers>

#include "common/base/check.h"

namespace mf::oracle {
namespace {

constexpr double kEps = 1e-5;

double MeanOf(const Matrix& x, size_t row) {
  double sum = 0;
  for (size_t c = 0; c < x.columns; ++c) sum += x.at(row, c);
  return sum / static_cast<double>(x.columns);
}

/// (x - mean) / sqrt(variance + eps), or x / sqrt(mean square + eps); also the divisor.
std::vector<double> Normalized(NormKind kind, const Matrix& x, size_t row, double* divisor) {
  const double mean = kind == NormKind::kLayerNorm ? MeanOf(x, row) : 0;
  double squares = 0;
  for (size_t c = 0; c < x.columns; ++c) squares += std::pow(x.at(row, c) - mean, 2);
  *divisor = std::sqrt(squares / static_cast<double>(x.columns) + kEps);
  std::vector<double> xhat(x.columns);
  for (size_t c = 0; c < x.columns; ++c) xhat[c] = (x.at(row, c) - mean) / *divisor;
  return xhat;
}

double NormalDistribution(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }
double NormalDensity(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi); }

}  // namespace

Matrix Add(const Matrix& a, const Matrix& b) {
  MF_CHECK(a.rows == b.rows && a.columns == b.columns);
  Matrix sum = a;
  for (size_t i = 0; i < sum.values.size(); ++i) sum.values[i] += b.values[i];
  return sum;
}

Matrix AddBias(const Matrix& a, const std::vector<double>& bias) {
  Matrix sum = a;
  for (size_t r = 0; r < a.rows; ++r) {
    for (size_t c = 0; c < a.columns; ++c) sum.at(r, c) += bias[c];
  }
  return sum;
}

std::vector<double> ColumnSums(const Matrix& a) {
  std::vector<double> sums(a.columns, 0.0);
  for (size_t r = 0; r < a.rows; ++r) {
    for (size_t c = 0; c < a.columns; ++c) sums[c] += a.at(r, c);
  }
  return sums;
}

Matrix Norm(NormKind kind, const Matrix& x, const std::vector<double>& gain,
            const std::vector<double>& bias) {
  Matrix y(x.rows, x.columns);
  for (size_t r = 0; r < x.rows; ++r) {
    double divisor = 0;
    const std::vector<double> xhat = Normalized(kind, x, r, &divisor);
    for (size_t c = 0; c < x.columns; ++c) {
      y.at(r, c) = xhat[c] * gain[c] + (bias.empty() ? 0.0 : bias[c]);
    }
  }
  return y;
}

NormGradient NormBackward(NormKind kind, const Matrix& x, const Matrix& dy,
                          const std::vector<double>& gain) {
  NormGradient out{Matrix(x.rows, x.columns), std::vector<double>(x.columns, 0.0), ColumnSums(dy)};
  const double n = static_cast<double>(x.columns);
  for (size_t r = 0; r < x.rows; ++r) {
    double divisor = 0;
    const std::vector<double> xhat = Normalized(kind, x, r, &divisor);
    double sum = 0;
    double product = 0;
    for (size_t c = 0; c < x.columns; ++c) {
      out.dgain[c] += dy.at(r, c) * xhat[c];
      sum += dy.at(r, c) * gain[c];
      product += dy.at(r, c) * gain[c] * xhat[c];
    }
    if (kind == NormKind::kRmsNorm) sum = 0;
    for (size_t c = 0; c < x.columns; ++c) {
      out.dx.at(r, c) = (dy.at(r, c) * gain[c] - sum / n - xhat[c] * product / n) / divisor;
    }
  }
  return out;
}

Matrix Multiply(const Matrix& x, const Matrix& w) {
  MF_CHECK(x.columns == w.rows);
  Matrix y(x.rows, w.columns);
  for (size_t r = 0; r < x.rows; ++r) {
    for (size_t i = 0; i < x.columns; ++i) {
      for (size_t c = 0; c < w.columns; ++c) y.at(r, c) += x.at(r, i) * w.at(i, c);
    }
  }
  return y;
}

Matrix Transpose(const Matrix& a) {
  Matrix out(a.columns, a.rows);
  for (size_t r = 0; r < a.rows; ++r) {
    for (size_t c = 0; c < a.columns; ++c) out.at(c, r) = a.at(r, c);
  }
  return out;
}

Matrix Gelu(const Matrix& x) {
  Matrix y = x;
  for (double& v : y.values) v *= NormalDistribution(v);
  return y;
}

Matrix GeluBackward(const Matrix& x, const Matrix& dy) {
  Matrix dx = dy;
  for (size_t i = 0; i < dx.values.size(); ++i) {
    const double v = x.values[i];
    dx.values[i] *= NormalDistribution(v) + v * NormalDensity(v);
  }
  return dx;
}

Matrix LogSoftmax(const Matrix& logits) {
  Matrix out = logits;
  for (size_t r = 0; r < logits.rows; ++r) {
    double maximum = logits.at(r, 0);
    for (size_t c = 1; c < logits.columns; ++c) maximum = std::max(maximum, logits.at(r, c));
    double sum = 0;
    for (size_t c = 0; c < logits.columns; ++c) sum += std::exp(logits.at(r, c) - maximum);
    for (size_t c = 0; c < logits.columns; ++c) out.at(r, c) -= maximum + std::log(sum);
  }
  return out;
}

}  // namespace mf::oracle
