// GELU with the exact Gaussian distribution function: x * Phi(x).
#pragma once

#include <cstddef>

namespace mf {

/// y[i] = x[i] * Phi(x[i]).
void Gelu(const float* x, size_t count, float* y);

/// dx[i] = dy[i] * (Phi(x[i]) + x[i] * phi(x[i])); dx may be dy.
void GeluBackward(const float* x, const float* dy, size_t count, float* dx);

}  // namespace mf
