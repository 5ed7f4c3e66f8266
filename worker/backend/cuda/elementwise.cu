#include "worker/backend/cuda/device_code.h"
#include "worker/backend/cuda/elementwise.h"
#include "worker/backend/cuda/launch.h"

namespace mf::cuda {
namespace {

constexpr unsigned kThreads = 256;

__device__ size_t Index() { return blockIdx.x * size_t{kThreads} + threadIdx.x; }

// Inputs that may be the output are not __restrict__.
__global__ void __launch_bounds__(kThreads)
    AddBiasKernel(const float* __restrict__ bias, size_t count, size_t width, float* y) {
  const size_t i = Index();
  if (i < count) y[i] += bias[i % width];
}

__global__ void __launch_bounds__(kThreads)
    AddRowsKernel(const float* a, const float* b, const float* __restrict__ bias, size_t count,
                  size_t width, float* out) {
  const size_t i = Index();
  if (i < count) out[i] = bias ? a[i] + b[i] + bias[i % width] : a[i] + b[i];
}

/// A thread per number; of two that are rotated with each other the first one's thread does both.
__global__ void __launch_bounds__(kThreads)
    RotateKernel(RotaryTables rotary, size_t heads, size_t length, float direction,
                 const float* __restrict__ bias, size_t count, size_t width, float* y) {
  const size_t at = Index();
  if (at >= count) return;
  const size_t column = at % width;
  const size_t in_head = column % rotary.head_dim;
  const float own = bias ? y[at] + bias[column] : y[at];
  if (column >= heads * rotary.head_dim || in_head >= 2 * rotary.pairs) {
    y[at] = own;
    return;
  }
  if (in_head >= rotary.pairs) return;
  const size_t pair = at + rotary.pairs;
  const float other = bias ? y[pair] + bias[column + rotary.pairs] : y[pair];
  const size_t angle = at / width % length * rotary.pairs + in_head;
  const float cosine = rotary.cosines[angle];
  const float sine = direction * rotary.sines[angle];
  y[at] = own * cosine - other * sine;
  y[pair] = other * cosine + own * sine;
}

__device__ float Phi(float x) { return 0.5f * erfcf(-0.70710678f * x); }

__global__ void __launch_bounds__(kThreads)
    GeluKernel(const float* __restrict__ x, size_t count, float* __restrict__ y) {
  const size_t i = Index();
  if (i < count) y[i] = x[i] * Phi(x[i]);
}

__global__ void __launch_bounds__(kThreads)
    GeluBackwardKernel(const float* __restrict__ x, const float* dy, size_t count, float* dx) {
  const size_t i = Index();
  if (i >= count) return;
  const float density = 0.39894228f * expf(-0.5f * x[i] * x[i]);
  dx[i] = dy[i] * (Phi(x[i]) + x[i] * density);
}

}  // namespace

void AddBias(cudaStream_t stream, const float* bias, size_t rows, size_t width, float* y) {
  const size_t count = rows * width;
  Launch("bias", stream, BlocksFor(count, kThreads), kThreads, 0, AddBiasKernel, bias, count, width,
         y);
}

void AddRows(cudaStream_t stream, const float* a, const float* b, const float* bias, size_t rows,
             size_t width, float* out) {
  const size_t count = rows * width;
  Launch("residual", stream, BlocksFor(count, kThreads), kThreads, 0, AddRowsKernel, a, b, bias,
         count, width, out);
}

void AddBiasAndRotate(cudaStream_t stream, const RotaryTables& rotary, size_t heads, size_t length,
                      const float* bias, size_t rows, size_t width, float* y) {
  const size_t count = rows * width;
  Launch("rotary", stream, BlocksFor(count, kThreads), kThreads, 0, RotateKernel, rotary, heads,
         length, 1.0f, bias, count, width, y);
}

void RotateBack(cudaStream_t stream, const RotaryTables& rotary, size_t heads, size_t length,
                size_t rows, size_t width, float* y) {
  const size_t count = rows * width;
  Launch("rotary backward", stream, BlocksFor(count, kThreads), kThreads, 0, RotateKernel, rotary,
         heads, length, -1.0f, nullptr, count, width, y);
}

void Gelu(cudaStream_t stream, const float* x, size_t count, float* y) {
  Launch("gelu", stream, BlocksFor(count, kThreads), kThreads, 0, GeluKernel, x, count, y);
}

void GeluBackward(cudaStream_t stream, const float* x, const float* dy, size_t count, float* dx) {
  Launch("gelu backward", stream, BlocksFor(count, kThreads), kThreads, 0, GeluBackwardKernel, x,
         dy, count, dx);
}

}  // namespace mf::cuda
