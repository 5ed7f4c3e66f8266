// Adam with decoupled weight decay over one row; arguments as in pserver/table/kernels/rows.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/run/optimizer_settings.h"
#include "pserver/table/optimizers/rule.h"
#include "pserver/table/split_weights.h"

namespace mf {

/// One decoupled AdamW step as torch.optim.AdamW does it: w *= 1 - lr*decay; m = beta1*m +
/// (1-beta1)*g; v = beta2*v + (1-beta2)*g*g; w -= lr/(1-beta1^step) * m /
/// (sqrt(v)/sqrt(1-beta2^step)
/// + eps), with g = gradient * gradient_scale. `step` counts from 1. All scalars are prepared in
/// double.
void AdamStep(const OptimizerSettings& settings, double lr, double decay, uint64_t step,
              float gradient_scale, const float* gradient, const WeightRow& w, float* m, float* v,
              size_t count);

/// What a step does to w and m where all columns have the same finished v.
void AdamMove(const OptimizerSettings& settings, double lr, double decay, uint64_t step,
              float gradient_scale, const float* gradient, const WeightRow& w, float* m, float v,
              size_t count);

/// What dense AdamW would have done to a row in steps `from`+1 ... `from`+lr.size() with zero
/// gradients (lr[i] is the rate of step from + 1 + i): at most 256 of them one by one, exactly as
/// AdamStep with gradient zero would; for the rest w is multiplied by `rest_decay` (the product of
/// 1 - lr*decay over the steps that `lr` leaves out; 1 if none) and m and v by beta^rest_steps.
/// REQUIRES lr.size() <= 256.
void AdamCatchUp(const OptimizerSettings& settings, std::span<const float> lr, double decay,
                 uint64_t from, double rest_decay, uint64_t rest_steps, const WeightRow& w,
                 float* m, float* v, size_t count);
/// The same for the steps that a row has missed.
void AdamCatchUp(const MissedSteps& missed, const WeightRow& w, float* m, float* v, size_t count);

}  // namespace mf
