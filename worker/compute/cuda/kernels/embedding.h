// Token embedding: rows of a matrix [vocabulary][width] on the GPU.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace mf::cuda {

/// x [tokens][width] = rows of `matrix`, overwritten.
void EmbeddingForward(cudaStream_t stream, const float* matrix, const uint32_t* ids, size_t tokens,
                      size_t width, float* x);

/// Which tokens have which id: those of the i-th distinct id are
/// positions[begin[i], begin[i + 1]), rising.
struct TokenGroups {
  size_t distinct = 0;
  const uint32_t* begin = nullptr;      // [distinct + 1]
  const uint32_t* positions = nullptr;  // [tokens]
};

/// gradient [distinct][width], overwritten: rows of dx [tokens][width] added in token order.
void EmbeddingBackward(cudaStream_t stream, const TokenGroups& groups, const float* dx,
                       size_t width, float* gradient);

}  // namespace mf::cuda
