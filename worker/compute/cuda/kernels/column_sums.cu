#include "worker/compute/cuda/kernels/column_sums.h"
#include "worker/compute/cuda/kernels/device_code.h"
#include "worker/compute/cuda/kernels/launch.h"

namespace mf::cuda {
namespace {

constexpr unsigned kThreads = 128;

__global__ void __launch_bounds__(kThreads)
    ChunkKernel(const float* __restrict__ x, size_t rows, size_t width, float* __restrict__ parts) {
  const size_t column = blockIdx.y * size_t{kThreads} + threadIdx.x;
  if (column >= width) return;
  const size_t begin = blockIdx.x * kSumChunk;
  const size_t end = begin + kSumChunk < rows ? begin + kSumChunk : rows;
  float sum = 0;
  for (size_t row = begin; row < end; ++row) sum += x[row * width + column];
  parts[blockIdx.x * width + column] = sum;
}

__global__ void __launch_bounds__(kThreads)
    AddKernel(const float* __restrict__ parts, size_t chunks, size_t width,
              float* __restrict__ sums) {
  const size_t column = blockIdx.x * size_t{kThreads} + threadIdx.x;
  if (column >= width) return;
  float sum = 0;
  for (size_t chunk = 0; chunk < chunks; ++chunk) sum += parts[chunk * width + column];
  sums[column] = sum;
}

}  // namespace

void ColumnSums(cudaStream_t stream, const float* x, size_t rows, size_t width, float* scratch,
                float* sums) {
  const dim3 grid(BlocksFor(rows, kSumChunk), BlocksFor(width, kThreads));
  Launch("column sums", stream, grid, kThreads, 0, ChunkKernel, x, rows, width, scratch);
  AddChunks(stream, scratch, rows, width, sums);
}

void AddChunks(cudaStream_t stream, const float* parts, size_t rows, size_t width, float* sums) {
  Launch("chunk sums", stream, BlocksFor(width, kThreads), kThreads, 0, AddKernel, parts,
         size_t{BlocksFor(rows, kSumChunk)}, width, sums);
}

}  // namespace mf::cuda
