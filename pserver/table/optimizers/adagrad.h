// Adagrad over one row; arguments as in pserver/table/kernels/rows.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pserver/table/split_weights.h"

namespace mf {

/// One step of torch.optim.Adagrad without lr_decay, after a decoupled decay: w *= 1 - lr*decay;
/// squares += g*g; w -= lr * g / (sqrt(squares) + eps), with g = gradient * gradient_scale. A zero
/// gradient does nothing but the decay.
void AdagradStep(double lr, double decay, double eps, float gradient_scale, const float* gradient,
                 const WeightRow& w, float* squares, size_t count);
/// What a step does to the weights where all have the same finished sum of squares.
void AdagradMove(double lr, double decay, double eps, float gradient_scale, const float* gradient,
                 const WeightRow& w, float squares, size_t count);

}  // namespace mf
