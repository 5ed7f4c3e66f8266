// Rows of scores: the softmax of causal attention and of the cross entropy.
#pragma once

#include <cstddef>

namespace mf {

/// A tile of attention scores. Row r has `valid` + r scores that count (causal); the rest up to
/// `columns` is behind the diagonal.
struct ScoreTile {
  size_t rows = 0;
  size_t columns = 0;
  size_t stride = 0;
  size_t valid = 0;
};

/// scores -> exp(scores - row maximum), 0 behind the diagonal. inverse_sums[r] = 1 / sum of row r;
/// log_sums[r * log_stride] = log(sum exp(scores)).
void ExpRows(const ScoreTile& tile, float* scores, float* inverse_sums, float* log_sums,
             size_t log_stride);

/// scores -> P = exp(scores - log_sums[r * log_stride]) and dp -> P * (dp - products[r]), both 0
/// behind the diagonal: the gradient of the scores. products[r] = <dO, O>.
void ExpBackwardRows(const ScoreTile& tile, const float* log_sums, size_t log_stride,
                     const float* products, float* scores, float* dp);

/// products[r] = <a_r, b_r> of `rows` rows of `width` numbers, `stride` apart.
void RowProducts(const float* a, const float* b, size_t rows, size_t width, size_t stride,
                 float* products);

/// log softmax(logits)[target] of one row.
double LogProbability(const float* logits, size_t count, size_t target);

/// The same, and logits -> (softmax(logits) - onehot(target)) * scale.
double CrossEntropyRow(float* logits, size_t count, size_t target, float scale);

}  // namespace mf
