// RMSNorm and LayerNorm over rows of `width` numbers, eps 1e-5.
#pragma once

#include <cstddef>

#include "worker/config/config.h"

namespace mf {

inline constexpr float kNormEps = 1e-5f;

struct NormParameters {
  NormKind kind = NormKind::kRmsNorm;
  size_t width = 0;
  const float* gain = nullptr;  // [width]
  const float* bias = nullptr;  // [width]; nullptr for RMSNorm
};

/// y [rows][width] = Norm(x), overwritten.
void NormRows(const NormParameters& norm, const float* x, size_t rows, float* y);

struct NormGradients {
  const float* residual = nullptr;  // [rows][width], added to dx; may be nullptr
  float* dx = nullptr;              // [rows][width], overwritten; may be `residual`
  float* dgain = nullptr;           // [width], overwritten with the sum over rows, rising
  float* dbias = nullptr;           // the same; nullptr for RMSNorm
};

/// Gradients from x and dy, both [rows][width].
void NormBackwardRows(const NormParameters& norm, const float* x, const float* dy, size_t rows,
                      const NormGradients& out);

}  // namespace mf
