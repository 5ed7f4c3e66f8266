// The statistics and the value of a norm, as every kernel computes them: a number that is normed
// again in a backward pass has the bits it had in the forward pass, so a hash chooses the same
// sign.
// The intrinsics keep the compiler from fusing operations differently in different kernels.
#pragma once

#include "worker/compute/cuda/kernels/device_code.h"
#include "worker/compute/cpu/norm.h"

namespace mf::cuda {

struct RowStatistics {
  float mean;  // 0 for RMSNorm
  float rstd;  // 1 / sqrt(mean of squares about `mean` + eps)
};

/// Of the row at `x`, by one warp; the same in all lanes.
__device__ inline RowStatistics StatisticsOfRow(NormKind kind, const float* x, size_t width) {
  const float inverse_width = 1.0f / static_cast<float>(width);
  float mean = 0;
  if (kind == NormKind::kLayerNorm) {
    float sum = 0;
    for (size_t i = LaneOfWarp(); i < width; i += kWarp) sum += x[i];
    mean = __fmul_rn(WarpSum(sum), inverse_width);
  }
  float squares = 0;
  for (size_t i = LaneOfWarp(); i < width; i += kWarp) {
    const float from_mean = __fsub_rn(x[i], mean);
    squares = fmaf(from_mean, from_mean, squares);
  }
  return {mean, 1.0f / sqrtf(fmaf(WarpSum(squares), inverse_width, kNormEps))};
}

__device__ inline float Standardised(float x, const RowStatistics& row) {
  return __fmul_rn(__fsub_rn(x, row.mean), row.rstd);
}
__device__ inline float Normed(float x, const RowStatistics& row, float gain, float bias) {
  return __fadd_rn(__fmul_rn(Standardised(x, row), gain), bias);
}

}  // namespace mf::cuda
