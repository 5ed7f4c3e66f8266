// Elementwise optimizer kernels over one row (or a run of columns of it). Vector length never
// changes the bits. `count` is a multiple of 16 (rows are zero-padded). Pointers are 64-byte
// aligned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

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
              float gradient_scale, const float* gradient, float* w, float* m, float* v,
              size_t count);

/// What dense AdamW would have done to a row in steps `from`+1 ... `from`+lr.size() with zero
/// gradients (lr[i] is the rate of step from + 1 + i): at most 256 of them one by one, exactly as
/// AdamStep with gradient zero would; for the rest w is multiplied by `rest_decay` (the product of
/// 1 - lr*decay over the steps that `lr` leaves out; 1 if none) and m and v by beta^rest_steps.
/// REQUIRES lr.size() <= 256.
void AdamCatchUp(const AdamSettings& settings, std::span<const float> lr, double decay,
                 uint64_t from, double rest_decay, uint64_t rest_steps, float* w, float* m,
                 float* v, size_t count);

/// w = w * (1 - lr*decay) - lr * g, with g = gradient * gradient_scale.
void SgdStep(double lr, double decay, float gradient_scale, const float* gradient, float* w,
             size_t count);

/// dst[i] = src[i] * factor.
void ScaleInto(float* dst, const float* src, float factor, size_t count);

/// A sum of squares in double: lane j of 8 adds the squares of columns = j mod 8 in the order of
/// the calls, then column (a sequential chain would wait 4 cycles an add); Total() adds lanes
/// rising.
struct SquareSum {
  double lane[8] = {};
  double Total() const;
};
void AddSquares(SquareSum& sum, const float* values, size_t count);

}  // namespace mf
