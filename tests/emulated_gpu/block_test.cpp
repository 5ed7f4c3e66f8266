// Threads of a block on the emulated GPU: right kernels give right results, wrong ones are found
// out.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "emulated_gpu/control.h"
#include "tests/emulated_gpu/testing.h"
#include "worker/compute/cuda/kernels/device_code.h"
#include "worker/compute/cuda/kernels/launch.h"

namespace mf::emulated_gpu {
namespace {

using cuda::Check;
using cuda::kAllLanes;
using cuda::Launch;
using cuda::SharedMemory;

__global__ void Squares(int* out, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) out[i] = i * i;
}

TEST(EmulatedGpu, EveryThreadOfAGridRuns) {
  Memory<int> out(1000);
  Launch("squares", nullptr, cuda::BlocksFor(1000, 64), 64, 0, Squares, out.data(), 1000);
  const std::vector<int> got = out.Get();
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(got[static_cast<size_t>(i)], i * i);
}

__global__ void Places(unsigned* out) {
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  out[block * 24 + thread] = block * 1000 + thread;
}

TEST(EmulatedGpu, ThreeDimensions) {
  Memory<unsigned> out(24 * 24);
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(2, 3, 4);
  config.blockDim = dim3(4, 3, 2);
  Check(cudaLaunchKernelEx(&config, Places, out.data()), "launch");
  const std::vector<unsigned> got = out.Get();
  for (unsigned i = 0; i < 24 * 24; ++i) ASSERT_EQ(got[i], i / 24 * 1000 + i % 24);
}

/// The sum of a block's numbers by halves; `barriers` tells whether the barriers are there.
template <bool barriers>
__global__ void BlockSum(const int* in, int* out) {
  int* const parts = SharedMemory<int>();
  parts[threadIdx.x] = in[threadIdx.x];
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    if (barriers) __syncthreads();
    if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
  }
  if (threadIdx.x == 0) *out = parts[0];
}

template <bool barriers>
int WrongSums(int seeds) {
  std::vector<int> numbers(256);
  std::iota(numbers.begin(), numbers.end(), 1);
  const Memory<int> in(numbers);
  const Memory<int> out(1);
  int wrong = 0;
  for (int seed = 0; seed < seeds; ++seed) {
    SetSeed(static_cast<uint64_t>(seed));
    Launch("sum", nullptr, 1, 256, 256 * sizeof(int), BlockSum<barriers>, in.data(), out.data());
    wrong += out.Get()[0] != 256 * 257 / 2;
  }
  return wrong;
}

TEST(EmulatedGpu, SumWithBarriersIsRight) { EXPECT_EQ(WrongSums<true>(50), 0); }
TEST(EmulatedGpu, SumWithoutBarriersIsWrong) { EXPECT_GE(WrongSums<false>(50), 48); }

/// Tiles go through one buffer; `second_barrier` keeps a tile from being overwritten too early,
/// which shows only if one warp runs ahead of another.
template <bool second_barrier>
__global__ void TileSums(const int* in, int* out, int tiles) {
  int* const tile = SharedMemory<int>();
  int sum = 0;
  for (int i = 0; i < tiles; ++i) {
    tile[threadIdx.x] = in[static_cast<size_t>(i) * blockDim.x + threadIdx.x];
    __syncthreads();
    __syncwarp();
    sum += tile[(threadIdx.x + 32) % blockDim.x];
    if (second_barrier) __syncthreads();
  }
  out[threadIdx.x] = sum;
}

template <bool second_barrier>
int WrongTileSums(int seeds) {
  std::vector<int> numbers(128 * 8);
  std::iota(numbers.begin(), numbers.end(), 1);
  std::vector<int> expected(128, 0);
  for (size_t i = 0; i < numbers.size(); ++i) expected[(i + 96) % 128] += numbers[i];
  const Memory<int> in(numbers);
  const Memory<int> out(128);
  int wrong = 0;
  for (int seed = 0; seed < seeds; ++seed) {
    SetSeed(static_cast<uint64_t>(seed));
    Launch("tiles", nullptr, 1, 128, 128 * sizeof(int), TileSums<second_barrier>, in.data(),
           out.data(), 8);
    wrong += out.Get() != expected;
  }
  return wrong;
}

TEST(EmulatedGpu, TilesWithBothBarriersAreRight) { EXPECT_EQ(WrongTileSums<true>(50), 0); }
TEST(EmulatedGpu, TilesWithOneBarrierAreWrong) { EXPECT_GE(WrongTileSums<false>(50), 48); }

__global__ void WarpThings(int* out) {
  const int lane = static_cast<int>(cuda::LaneOfWarp());
  int* const mine = out + threadIdx.x * 12;
  mine[0] = cuda::WarpSum(lane);
  mine[1] = __shfl_sync(kAllLanes, lane * 10, 7);
  mine[2] = __shfl_sync(kAllLanes, lane, lane + 1, 8);
  mine[3] = __shfl_up_sync(kAllLanes, lane, 3);
  mine[4] = __shfl_down_sync(kAllLanes, lane, 3, 16);
  mine[5] = __shfl_xor_sync(kAllLanes, lane, 5);
  mine[6] = static_cast<int>(__ballot_sync(kAllLanes, lane % 3 == 0));
  mine[7] = __any_sync(kAllLanes, lane == 40) * 2 + __all_sync(kAllLanes, lane < 32);
  mine[8] = __syncthreads_count(threadIdx.x < 40);
  mine[9] = __syncthreads_or(threadIdx.x == 63) * 2 + __syncthreads_or(threadIdx.x == 64);
  mine[10] = __syncthreads_and(threadIdx.x < 64) * 2 + __syncthreads_and(threadIdx.x < 63);
  // Two halves of a warp meet on their own.
  const unsigned half = lane < 16 ? 0x0000FFFFu : 0xFFFF0000u;
  mine[11] = __shfl_xor_sync(half, lane, 1);
}

TEST(EmulatedGpu, WarpFunctions) {
  Memory<int> out(64 * 12);
  Launch("warps", nullptr, 1, 64, 0, WarpThings, out.data());
  const std::vector<int> got = out.Get();
  for (int thread = 0; thread < 64; ++thread) {
    const int lane = thread % 32;
    const int* mine = got.data() + thread * 12;
    EXPECT_EQ(mine[0], 31 * 32 / 2);
    EXPECT_EQ(mine[1], 70);
    EXPECT_EQ(mine[2], lane / 8 * 8 + (lane + 1) % 8);
    EXPECT_EQ(mine[3], lane < 3 ? lane : lane - 3);
    EXPECT_EQ(mine[4], lane % 16 + 3 < 16 ? lane + 3 : lane);
    EXPECT_EQ(mine[5], lane ^ 5);
    EXPECT_EQ(static_cast<unsigned>(mine[6]), 0x49249249u);
    EXPECT_EQ(mine[7], 1);
    EXPECT_EQ(mine[8], 40);
    EXPECT_EQ(mine[9], 2);
    EXPECT_EQ(mine[10], 2);
    EXPECT_EQ(mine[11], lane ^ 1);
  }
}

__global__ void Unwritten(float* out) { out[threadIdx.x] = SharedMemory<float>()[threadIdx.x]; }

TEST(EmulatedGpu, FreshMemoryIsNaN) {
  Memory<float> fresh(32);
  for (const float x : fresh.Get()) EXPECT_TRUE(std::isnan(x));
  Memory<float> out(std::vector<float>(32, 1.0f));
  Launch("unwritten", nullptr, 1, 32, 32 * sizeof(float), Unwritten, out.data());
  for (const float x : out.Get()) EXPECT_TRUE(std::isnan(x));
}

__global__ void Nothing() {}

cudaError_t TryLaunch(unsigned threads, size_t shared) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(1);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  return cudaLaunchKernelEx(&config, Nothing);
}

TEST(EmulatedGpu, LimitsOfLaunches) {
  EXPECT_EQ(TryLaunch(1024, 48 * 1024), cudaSuccess);
  EXPECT_EQ(TryLaunch(1025, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(TryLaunch(0, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(TryLaunch(32, 48 * 1024 + 1), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  constexpr auto kShared = cudaFuncAttributeMaxDynamicSharedMemorySize;
  EXPECT_EQ(cudaFuncSetAttribute(Nothing, kShared, 227 * 1024 + 1), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFuncSetAttribute(Nothing, kShared, 100 * 1024), cudaSuccess);
  EXPECT_EQ(TryLaunch(32, 100 * 1024), cudaSuccess);
  EXPECT_EQ(TryLaunch(32, 100 * 1024 + 1), cudaErrorInvalidValue);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

#if !defined(__SANITIZE_ADDRESS__)
constexpr const char* kOverrun = "kernel .*Overrun.*block .*shared memory of 128 bytes .* byte 140";
#else
constexpr const char* kOverrun = "use-after-poison";
#endif

__global__ void Overrun() {
  reinterpret_cast<volatile char*>(SharedMemory<char>())[threadIdx.x == 0 ? 140 : 0] = 1;
}

__global__ void HalfABarrier() {
  if (threadIdx.x < 32) __syncthreads();
}

__global__ void BarrierAgainstShuffle(int* out) {
  int x = 0;
  if (threadIdx.x == 5) {
    __syncthreads();
  } else {
    x = __shfl_xor_sync(kAllLanes, 1, 1);
  }
  *out = x;
}

__global__ void WrongMask() { __syncwarp(threadIdx.x == 3 ? 0xF0u : kAllLanes); }

template <class... Parameters, class... Arguments>
void RunHere(void (*kernel)(Parameters...), size_t shared, Arguments... arguments) {
  Launch("faulty", nullptr, 1, 64, shared, kernel, arguments...);
  cudaDeviceSynchronize();
}

TEST(EmulatedGpuDeathTest, FaultsEndTheProgram) {
  Memory<int> out(1);
  EXPECT_DEATH(RunHere(Overrun, 128), kOverrun);
  EXPECT_DEATH(RunHere(HalfABarrier, 0),
               "kernel .*HalfABarrier.*__syncthreads is reached by 32 of 64 threads, 32 have ended"
               ".*MF_EMULATED_GPU_SEED");
  EXPECT_DEATH(RunHere(BarrierAgainstShuffle, 0, out.data()),
               "BarrierAgainstShuffle.*__shfl_xor_sync with lanes 0xffffffff: the lanes that came "
               "are 0xffffffdf, at the block's barrier 0x00000020");
  EXPECT_DEATH(RunHere(WrongMask, 0), "__syncwarp: the lane is not in the lanes 0x000000f0");
  EXPECT_DEATH(__syncthreads(), "__syncthreads outside of a kernel");
}

__global__ void ManyBarriers(int* out) {
  int sum = 0;
  for (int i = 0; i < 100; ++i) {
    __syncthreads();
    sum += i;
  }
  out[threadIdx.x] = sum;
}

// How long it takes is for people to read: gtest prints it.
TEST(EmulatedGpu, HundredBarriersOf256ThreadsTenTimes) {
  Memory<int> out(256);
  Launch("barriers", nullptr, 10, 256, 0, ManyBarriers, out.data());
  EXPECT_EQ(out.Get(), std::vector<int>(256, 4950));
}

}  // namespace
}  // namespace mf::emulated_gpu
