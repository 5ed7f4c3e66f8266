// Cross entropy over rows of logits, and its gradient in their place.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace mf::cuda {

/// nll [rows] = -log softmax(logits)[target] of each row of logits [rows][vocabulary].
void CrossEntropy(cudaStream_t stream, const float* logits, const uint32_t* targets, size_t rows,
                  size_t vocabulary, double* nll);

/// The same, and logits -> (softmax(logits) - onehot(target)) * scale.
void CrossEntropyBackward(cudaStream_t stream, float* logits, const uint32_t* targets, size_t rows,
                          size_t vocabulary, float scale, double* nll);

}  // namespace mf::cuda
