// Parts of the oracle: the formulas of DESIGN section 3 in double, one plain loop each. Written
// from the formulas, not from worker/, so that a mistake would have to be made twice to go unseen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "worker/config/config.h"

namespace mf::oracle {

/// Row-major, at(row, column).
struct Matrix {
  Matrix() = default;
  Matrix(size_t r, size_t c) : rows(r), columns(c), values(r * c, 0.0) {}
  Matrix(size_t r, size_t c, std::vector<double> v) : rows(r), columns(c), values(std::move(v)) {}
  double& at(size_t row, size_t column) { return values[row * columns + column]; }
  double at(size_t row, size_t column) const { return values[row * columns + column]; }

  size_t rows = 0;
  size_t columns = 0;
  std::vector<double> values;
};

Matrix Add(const Matrix& a, const Matrix& b);
Matrix AddBias(const Matrix& a, const std::vector<double>& bias);
std::vector<double> ColumnSums(const Matrix& a);

/// bias may be empty (RMSNorm).
Matrix Norm(NormKind kind, const Matrix& x, const std::vector<double>& gain,
            const std::vector<double>& bias);
struct NormGradient {
  Matrix dx;
  std::vector<double> dgain;
  std::vector<double> dbias;
};
NormGradient NormBackward(NormKind kind, const Matrix& x, const Matrix& dy,
                          const std::vector<double>& gain);

/// y = x * w, w [in][out].
Matrix Multiply(const Matrix& x, const Matrix& w);
Matrix Transpose(const Matrix& a);

Matrix Gelu(const Matrix& x);
Matrix GeluBackward(const Matrix& x, const Matrix& dy);

struct AttentionOptions {
  size_t sequences = 0;
  size_t length = 0;
  size_t heads = 0;
  double rotary_pct = 0.25;
};
/// Causal attention with rotary embedding: out [tokens][d] from qkv [tokens][3d], not yet rotated.
Matrix Attention(const AttentionOptions& options, const Matrix& qkv);
Matrix AttentionBackward(const AttentionOptions& options, const Matrix& qkv, const Matrix& dout);

struct HashOptions {
  size_t tables = 0;  // K
  size_t bits = 0;    // numbers per sub-vector
  size_t probes = 1;
  Score score = Score::kScaled;
  double temperature = 1;
};
/// Buckets and weights, pair-major: [K * probes][tokens].
struct HashResult {
  std::vector<uint32_t> buckets;
  std::vector<double> weights;
  /// [K][tokens]: how far z is from choosing other buckets, the smallest |z_i| or the gap between
  /// the last magnitude that is flipped and the next one.
  std::vector<double> border;
};
/// The buckets that z [tokens][K * bits] chooses, and their weights.
HashResult Hash(const HashOptions& options, const Matrix& z);
/// The weights of given buckets.
std::vector<double> HashWeights(const HashOptions& options, const Matrix& z,
                                const std::vector<uint32_t>& buckets);
/// dz from dweights [K * probes][tokens], the buckets being constants.
Matrix HashBackward(const HashOptions& options, const Matrix& z,
                    const std::vector<uint32_t>& buckets, const std::vector<double>& dweights);

/// log softmax of every row.
Matrix LogSoftmax(const Matrix& logits);

}  // namespace mf::oracle
