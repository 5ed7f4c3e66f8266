#include "worker/compute/cuda/kernels/device_code.h"
#include "worker/compute/cuda/kernels/embedding.h"
#include "worker/compute/cuda/kernels/launch.h"

namespace mf::cuda {
namespace {

constexpr unsigned kThreads = 128;  // columns of a block; blockIdx.x is the row

__global__ void __launch_bounds__(kThreads)
    ForwardKernel(const float* __restrict__ matrix, const uint32_t* __restrict__ ids, size_t width,
                  float* __restrict__ x) {
  const size_t column = blockIdx.y * size_t{kThreads} + threadIdx.x;
  if (column >= width) return;
  x[blockIdx.x * width + column] = matrix[size_t{ids[blockIdx.x]} * width + column];
}

__global__ void __launch_bounds__(kThreads)
    BackwardKernel(TokenGroups groups, const float* __restrict__ dx, size_t width,
                   float* __restrict__ gradient) {
  const size_t column = blockIdx.y * size_t{kThreads} + threadIdx.x;
  if (column >= width) return;
  float sum = 0;
  const uint32_t end = groups.begin[blockIdx.x + 1];
  for (uint32_t i = groups.begin[blockIdx.x]; i < end; ++i) {
    sum += dx[size_t{groups.positions[i]} * width + column];
  }
  gradient[blockIdx.x * width + column] = sum;
}

}  // namespace

void EmbeddingForward(cudaStream_t stream, const float* matrix, const uint32_t* ids, size_t tokens,
                      size_t width, float* x) {
  const dim3 grid(static_cast<unsigned>(tokens), BlocksFor(width, kThreads));
  Launch("embedding", stream, grid, kThreads, 0, ForwardKernel, matrix, ids, width, x);
}

void EmbeddingBackward(cudaStream_t stream, const TokenGroups& groups, const float* dx,
                       size_t width, float* gradient) {
  const dim3 grid(static_cast<unsigned>(groups.distinct), BlocksFor(width, kThreads));
  Launch("embedding backward", stream, grid, kThreads, 0, BackwardKernel, groups, dx, width,
         gradient);
}

}  // namespace mf::cuda
