// Causal multi-head attention that never has sequence x sequence numbers in memory: scores of a
// tile of queries and a tile of keys live in shared memory, products run on tensor cores (TF32
// inputs, float32 sums).
#pragma once

#include <cuda_runtime.h>

#include "worker/compute/cpu/attention.h"

namespace mf::cuda {

/// The widest head that the kernels have a variant for.
inline constexpr size_t kMaxHeadDim = 128;

/// Shared memory that a block of the kernels below takes at most, for a head_dim that they have a
/// variant for.
size_t AttentionSharedBytes(size_t head_dim);

/// out [tokens][d] from qkv [tokens][3d], queries and keys already rotated. log_sums
/// [tokens][heads] = log sum exp of a query's scores, natural logarithm, scale 1 / sqrt(head_dim)
/// included: what the backward pass needs. Any length and any head_dim in [1, kMaxHeadDim]; all
/// overwritten.
void AttentionForward(cudaStream_t stream, const AttentionShape& shape, const float* qkv,
                      float* out, float* log_sums);

struct AttentionGradient {
  const float* dout = nullptr;  // [tokens][d]
  float* products = nullptr;    // [tokens][heads], scratch: <dout, out> of each query and head
  float* dqkv = nullptr;        // [tokens][3d], overwritten; still rotated
};

/// The gradient of qkv; probabilities are computed again. Every output number has one writer and
/// one fixed order, so the bits are the same each time.
void AttentionBackward(cudaStream_t stream, const AttentionShape& shape,
                       const AttentionSaved& saved, const AttentionGradient& gradient);

}  // namespace mf::cuda
