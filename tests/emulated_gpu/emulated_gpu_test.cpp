// The emulated GPU itself: right kernels give right results, wrong ones are found out.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <vector>

#include "emulated_gpu/control.h"
#include "worker/backend/cuda/device_code.h"
#include "worker/backend/cuda/launch.h"

namespace mf::cuda {
namespace {

__global__ void Squares(int* out, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) out[i] = i * i;
}

TEST(EmulatedGpu, KernelRuns) {
  int* out = nullptr;
  Check(cudaMalloc(&out, 100 * sizeof(int)), "memory");
  Launch("squares", nullptr, BlocksFor(100, 32), 32, 0, Squares, out, 100);
  std::vector<int> got(100);
  Check(cudaMemcpy(got.data(), out, 400, cudaMemcpyDeviceToHost), "copy");
  for (int i = 0; i < 100; ++i) EXPECT_EQ(got[static_cast<size_t>(i)], i * i);
  Check(cudaFree(out), "memory");
}

}  // namespace
}  // namespace mf::cuda
