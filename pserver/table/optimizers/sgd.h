// Gradient descent over one row; arguments as in pserver/table/kernels/rows.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pserver/table/split_weights.h"

namespace mf {

/// w = w * (1 - lr*decay) - lr * g, with g = gradient * gradient_scale.
void SgdStep(double lr, double decay, float gradient_scale, const float* gradient,
             const WeightRow& w, size_t count);

}  // namespace mf
