// What the kernels of rows.h share: rows as runs of V, which is float4 where rows allow it and
// float where not, and the choice of how much of them is worked on at a time. Included by .cu files
// only.
#pragma once

#include <cuda_runtime.h>

#include "worker/compute/cuda/kernels/device_code.h"
#include "worker/compute/cuda/kernels/launch.h"
#include "worker/compute/cuda/kernels/rows.h"

namespace mf::cuda {

/// What is read again and again should stay below this, so that it comes from the second-level
/// cache. A100 has 40 MiB of it and H100 50 MiB, in two halves either of which keeps its own copy
/// of what its multiprocessors read; a third of a half is left to what streams by.
inline constexpr size_t kCacheBytes = size_t{16} << 20;

/// Throws CudaError where numbers would not fit the types that hold them.
inline void CheckSizes(const Pairs& pairs, size_t columns) {
  if (pairs.rows() >= kMostRows || pairs.entries() >= kMostEntries || columns >= kMostEntries) {
    throw CudaError("a memory layer is too large for the GPU's kernels: " +
                    std::to_string(pairs.rows()) + " rows of " + std::to_string(columns) +
                    " columns, " + std::to_string(pairs.entries()) + " pairs of a micro-batch");
  }
}

template <class V>
__device__ inline V Zero();
template <>
__device__ inline float Zero<float>() {
  return 0.0f;
}
template <>
__device__ inline float4 Zero<float4>() {
  return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

/// sum += weight * x, one rounding.
__device__ inline void AddScaled(float weight, float x, float& sum) { sum = fmaf(weight, x, sum); }
__device__ inline void AddScaled(float weight, const float4& x, float4& sum) {
  sum.x = fmaf(weight, x.x, sum.x);
  sum.y = fmaf(weight, x.y, sum.y);
  sum.z = fmaf(weight, x.z, sum.z);
  sum.w = fmaf(weight, x.w, sum.w);
}

/// sum + <a, b>.
__device__ inline float AddDot(float a, float b, float sum) { return fmaf(a, b, sum); }
__device__ inline float AddDot(const float4& a, const float4& b, float sum) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

/// The row that pair `pair` of token `token` meets.
__device__ inline uint32_t RowOf(const Pairs& pairs, uint32_t pair, size_t token) {
  const size_t at = pair * pairs.tokens + token;
  uint32_t index = 0;
  if (pairs.index_bytes == 1) {
    index = static_cast<const uint8_t*>(pairs.indices)[at];
  } else if (pairs.index_bytes == 2) {
    index = static_cast<const uint16_t*>(pairs.indices)[at];
  } else {
    index = static_cast<const uint32_t*>(pairs.indices)[at];
  }
  const uint32_t table = pair / static_cast<uint32_t>(pairs.probes);
  return table * static_cast<uint32_t>(pairs.rows_per_table) + index;
}

}  // namespace mf::cuda
