// Sums over the rows of a matrix: one partial sum per 64 rows, added in order, so that the bits are
// the same each time.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace mf::cuda {

inline constexpr size_t kSumChunk = 64;  // rows of a partial sum

/// Floats of scratch for the partial sums of [rows][width].
inline size_t ColumnSumsScratch(size_t rows, size_t width) {
  return (rows + kSumChunk - 1) / kSumChunk * width;
}

/// sums [width] = sum over rows of x [rows][width], overwritten.
void ColumnSums(cudaStream_t stream, const float* x, size_t rows, size_t width, float* scratch,
                float* sums);

/// The second half of such a sum: sums [width] from one partial sum per chunk of `rows`.
void AddChunks(cudaStream_t stream, const float* parts, size_t rows, size_t width, float* sums);

}  // namespace mf::cuda
