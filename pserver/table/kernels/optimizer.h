// Elementwise optimizer kernels over one row (or a run of columns of it). Vector length never
// changes the bits. `count` is a multiple of 16 (rows are zero-padded). Pointers are 64-byte
// aligned (32 bytes where the numbers are 2 bytes wide).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/config/sharding.h"
#include "pserver/table/split_weights.h"

namespace mf {

struct AdamSettings {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
};

/// One decoupled AdamW step as torch.optim.AdamW does it: w *= 1 - lr*decay; m = beta1*m +
/// (1-beta1)*g; v = beta2*v + (1-beta2)*g*g; w -= lr/(1-beta1^step) * m /
/// (sqrt(v)/sqrt(1-beta2^step)
/// + eps), with g = gradient * gradient_scale. `step` counts from 1. All scalars are prepared in
/// double.
void AdamStep(const AdamSettings& settings, double lr, double decay, uint64_t step,
              float gradient_scale, const float* gradient, const WeightRow& w, float* m, float* v,
              size_t count);

/// What dense AdamW would have done to a row in steps `from`+1 ... `from`+lr.size() with zero
/// gradients (lr[i] is the rate of step from + 1 + i): at most 256 of them one by one, exactly as
/// AdamStep with gradient zero would; for the rest w is multiplied by `rest_decay` (the product of
/// 1 - lr*decay over the steps that `lr` leaves out; 1 if none) and m and v by beta^rest_steps.
/// REQUIRES lr.size() <= 256.
void AdamCatchUp(const AdamSettings& settings, std::span<const float> lr, double decay,
                 uint64_t from, double rest_decay, uint64_t rest_steps, const WeightRow& w,
                 float* m, float* v, size_t count);

/// One step of torch.optim.Adagrad without lr_decay, after a decoupled decay: w *= 1 - lr*decay;
/// squares += g*g; w -= lr * g / (sqrt(squares) + eps), with g = gradient * gradient_scale. A zero
/// gradient does nothing but the decay.
void AdagradStep(double lr, double decay, double eps, float gradient_scale, const float* gradient,
                 const WeightRow& w, float* squares, size_t count);

/// w = w * (1 - lr*decay) - lr * g, with g = gradient * gradient_scale.
void SgdStep(double lr, double decay, float gradient_scale, const float* gradient,
             const WeightRow& w, size_t count);

/// dst[i] = src[i] * factor.
void ScaleInto(float* dst, const float* src, float factor, size_t count);
/// w[i] *= factor.
void ScaleWeights(const WeightRow& w, float factor, size_t count);
/// dst[i] = w[i] * factor, rounded to bf16 as split weights are.
void RoundScaledInto(uint16_t* dst, const WeightRow& w, float factor, size_t count);

/// A sum of squares in double: lane j of 8 adds the squares of columns = j mod 8 in the order of
/// the calls, then column (a sequential chain would wait 4 cycles an add); Total() adds lanes
/// rising.
struct SquareSum {
  double lane[8] = {};
  double Total() const;
};
/// For every block of a row (a run of columns, padded to 16 with zeros) its squares to its sum.
void AddSquares(SquareSum* sums, const float* row, std::span<const ColumnRange> blocks);

}  // namespace mf
