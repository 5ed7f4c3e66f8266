#include "worker/compute/cuda/kernels/device_code.h"
#include "worker/compute/cuda/kernels/elementwise.h"
#include "worker/compute/cuda/kernels/launch.h"

namespace mf::cuda {
namespace {

constexpr unsigned kThreads = 256;

// Biases and rotary embedding: a block is a run of columns of one row, so that nothing is divided.
__device__ unsigned Column() { return blockIdx.y * kThreads + threadIdx.x; }
dim3 RowsAndColumns(size_t rows, size_t width) {
  return dim3(static_cast<unsigned>(rows), BlocksFor(width, kThreads));
}

// Inputs that may be the output are not __restrict__.
__global__ void __launch_bounds__(kThreads)
    AddBiasKernel(const float* __restrict__ bias, unsigned width, float* y) {
  const unsigned column = Column();
  if (column < width) y[size_t{blockIdx.x} * width + column] += bias[column];
}

__global__ void __launch_bounds__(kThreads)
    AddRowsKernel(const float* a, const float* b, const float* __restrict__ bias, unsigned width,
                  float* out) {
  const unsigned column = Column();
  if (column >= width) return;
  const size_t at = size_t{blockIdx.x} * width + column;
  out[at] = bias ? a[at] + b[at] + bias[column] : a[at] + b[at];
}

struct Rotation {
  RotaryTables tables;
  unsigned rotated;  // columns of the heads that are
  unsigned length;
  float direction;
};

/// A thread per number; of two that are rotated with each other the first one's thread does both.
__global__ void __launch_bounds__(kThreads)
    RotateKernel(Rotation rotation, const float* __restrict__ bias, unsigned width, float* y) {
  const unsigned column = Column();
  if (column >= width) return;
  const unsigned pairs = static_cast<unsigned>(rotation.tables.pairs);
  const unsigned in_head = column % static_cast<unsigned>(rotation.tables.head_dim);
  const size_t at = size_t{blockIdx.x} * width + column;
  const float own = bias ? y[at] + bias[column] : y[at];
  if (column >= rotation.rotated || in_head >= 2 * pairs) {
    if (bias) y[at] = own;
    return;
  }
  if (in_head >= pairs) return;
  const size_t other_at = at + pairs;
  const float other = bias ? y[other_at] + bias[column + pairs] : y[other_at];
  const size_t angle = size_t{blockIdx.x % rotation.length} * pairs + in_head;
  const float cosine = rotation.tables.cosines[angle];
  const float sine = rotation.direction * rotation.tables.sines[angle];
  y[at] = own * cosine - other * sine;
  y[other_at] = other * cosine + own * sine;
}

__device__ size_t Index() { return blockIdx.x * size_t{kThreads} + threadIdx.x; }

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
  Launch("bias", stream, RowsAndColumns(rows, width), kThreads, 0, AddBiasKernel, bias, width, y);
}

void AddRows(cudaStream_t stream, const float* a, const float* b, const float* bias, size_t rows,
             size_t width, float* out) {
  Launch("residual", stream, RowsAndColumns(rows, width), kThreads, 0, AddRowsKernel, a, b, bias,
         width, out);
}

void AddBiasAndRotate(cudaStream_t stream, const RotaryTables& rotary, size_t heads, size_t length,
                      const float* bias, size_t rows, size_t width, float* y) {
  const Rotation rotation{rotary, static_cast<unsigned>(heads * rotary.head_dim),
                          static_cast<unsigned>(length), 1.0f};
  Launch("rotary", stream, RowsAndColumns(rows, width), kThreads, 0, RotateKernel, rotation, bias,
         width, y);
}

void RotateBack(cudaStream_t stream, const RotaryTables& rotary, size_t heads, size_t length,
                size_t rows, size_t width, float* y) {
  const Rotation rotation{rotary, static_cast<unsigned>(heads * rotary.head_dim),
                          static_cast<unsigned>(length), -1.0f};
  Launch("rotary backward", stream, RowsAndColumns(rows, width), kThreads, 0, RotateKernel,
         rotation, nullptr, width, y);
}

void Gelu(cudaStream_t stream, const float* x, size_t count, float* y) {
  Launch("gelu", stream, BlocksFor(count, kThreads), kThreads, 0, GeluKernel, x, count, y);
}

void GeluBackward(cudaStream_t stream, const float* x, const float* dy, size_t count, float* dx) {
  Launch("gelu backward", stream, BlocksFor(count, kThreads), kThreads, 0, GeluBackwardKernel, x,
         dy, count, dx);
}

}  // namespace mf::cuda
