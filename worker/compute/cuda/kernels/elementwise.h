// Operations on single numbers: biases, residuals, rotary embedding, GELU.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace mf::cuda {

/// y [rows][width] += bias [width].
void AddBias(cudaStream_t stream, const float* bias, size_t rows, size_t width, float* y);

/// out = a + b, or a + b + bias [width] unless `bias` is nullptr; all [rows][width], out may be a
/// or b.
void AddRows(cudaStream_t stream, const float* a, const float* b, const float* bias, size_t rows,
             size_t width, float* out);

/// Rotary embedding of the first `heads` heads of every row (worker/compute/cpu/rotary.h): the
/// tables are [positions][pairs], the position of row t is t % length.
struct RotaryTables {
  size_t pairs = 0;
  size_t head_dim = 0;
  const float* cosines = nullptr;
  const float* sines = nullptr;
};

/// y [rows][width] += bias, then the first `heads` heads are rotated.
void AddBiasAndRotate(cudaStream_t stream, const RotaryTables& rotary, size_t heads, size_t length,
                      const float* bias, size_t rows, size_t width, float* y);
/// The inverse rotation, which is also how gradients go back; no bias.
void RotateBack(cudaStream_t stream, const RotaryTables& rotary, size_t heads, size_t length,
                size_t rows, size_t width, float* y);

/// y = x * Phi(x), [count].
void Gelu(cudaStream_t stream, const float* x, size_t count, float* y);
/// dx = dy * (Phi(x) + x * phi(x)), [count]; dx may be dy.
void GeluBackward(cudaStream_t stream, const float* x, const float* dy, size_t count, float* dx);

}  // namespace mf::cuda
