// Memory, streams and events of the emulated GPU.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>
#include <vector>

#include "emulated_gpu/control.h"
#include "tests/emulated_gpu/testing.h"

namespace mf::emulated_gpu {
namespace {

using cuda::Check;
using cuda::Launch;

constexpr size_t kBytes = 4 * sizeof(int);

cudaError_t Upload(const Memory<int>& to, const int* from, cudaStream_t stream) {
  return cudaMemcpyAsync(to.data(), from, kBytes, cudaMemcpyHostToDevice, stream);
}
cudaError_t Download(int* to, const Memory<int>& from, cudaStream_t stream) {
  return cudaMemcpyAsync(to, from.data(), kBytes, cudaMemcpyDeviceToHost, stream);
}

TEST(EmulatedGpuStreams, CopiesAreLate) {
  const Stream stream;
  const Memory<int> memory(4);
  std::vector<int> from(4, 7);
  std::vector<int> to(4, 1);
  Check(Upload(memory, from.data(), stream), "up");
  Check(Download(to.data(), memory, stream), "down");
  EXPECT_EQ(to, std::vector<int>(4, 1)) << "nobody has waited";
  from[2] = 8;  // too early, and it shows
  EXPECT_EQ(cudaStreamQuery(stream), cudaErrorNotReady);
  stream.Wait();
  EXPECT_EQ(cudaStreamQuery(stream), cudaSuccess);
  EXPECT_NE(to, std::vector<int>(4, 1));
}

TEST(EmulatedGpuStreams, SourceThatIsOverwrittenTooEarlyShows) {
  const Stream stream;
  const Memory<int> memory(4);
  std::vector<int> from(4, 7);
  Check(Upload(memory, from.data(), stream), "up");
  from.assign(4, 8);
  stream.Wait();
  EXPECT_EQ(memory.Get(), std::vector<int>(4, 8));
}

__global__ void AddOne(int* at) { at[threadIdx.x % 4] += threadIdx.x < 4; }
__global__ void Double(int* at) { at[threadIdx.x % 4] *= threadIdx.x < 4 ? 2 : 1; }

/// (1 + 1) * 2 if the second stream waits for the first; how often that came out of `seeds` tries.
int InOrder(int seeds, bool with_event) {
  int right = 0;
  for (int seed = 0; seed < seeds; ++seed) {
    SetSeed(static_cast<uint64_t>(seed));
    const Stream first;
    const Stream second;
    const Memory<int> memory(std::vector<int>(4, 1));
    cudaEvent_t event = nullptr;
    Check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
    Launch("add", first, 1, 32, 0, AddOne, memory.data());
    Check(cudaEventRecord(event, first), "record");
    if (with_event) Check(cudaStreamWaitEvent(second, event), "wait");
    Check(cudaEventDestroy(event), "event");  // allowed while it is waited for
    Launch("double", second, 1, 32, 0, Double, memory.data());
    Check(cudaDeviceSynchronize(), "all");
    right += memory.Get() == std::vector<int>(4, 4);
  }
  return right;
}

TEST(EmulatedGpuStreams, EventsOrderStreams) {
  EXPECT_EQ(InOrder(40, true), 40);
  const int by_chance = InOrder(40, false);
  EXPECT_GT(by_chance, 5);
  EXPECT_LT(by_chance, 35);
}

TEST(EmulatedGpuStreams, EventsAreReachedByWaiting) {
  const Stream stream;
  const Memory<int> memory(std::vector<int>(4, 1));
  cudaEvent_t start = nullptr;
  cudaEvent_t end = nullptr;
  Check(cudaEventCreate(&start), "event");
  Check(cudaEventCreate(&end), "event");
  EXPECT_EQ(cudaEventQuery(start), cudaSuccess) << "never recorded";
  Check(cudaEventRecord(start, stream), "record");
  for (int i = 0; i < 5; ++i) Launch("add", stream, 1, 32, 0, AddOne, memory.data());
  Check(cudaEventRecord(end, stream), "record");
  float milliseconds = -1;
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, start, end), cudaErrorNotReady);
  EXPECT_EQ(cudaEventQuery(end), cudaErrorNotReady);
  Check(cudaEventSynchronize(end), "wait");
  EXPECT_EQ(cudaEventQuery(end), cudaSuccess);
  Check(cudaEventElapsedTime(&milliseconds, start, end), "time");
  EXPECT_GT(milliseconds, 0);
  EXPECT_EQ(memory.Get(), std::vector<int>(4, 6));
  // Asking again and again is waiting, too.
  Launch("add", stream, 1, 32, 0, AddOne, memory.data());
  Check(cudaEventRecord(end, stream), "record");
  while (cudaEventQuery(end) == cudaErrorNotReady) {
  }
  EXPECT_EQ(memory.Get(), std::vector<int>(4, 7));
  Check(cudaEventDestroy(start), "event");
  Check(cudaEventDestroy(end), "event");
}

TEST(EmulatedGpuStreams, DefaultStreamIsInOrderWithBlockingStreamsOnly) {
  cudaStream_t blocking = nullptr;
  Check(cudaStreamCreate(&blocking), "stream");
  const Memory<int> memory(std::vector<int>(4, 1));
  for (int i = 0; i < 10; ++i) {
    Launch("add", blocking, 1, 32, 0, AddOne, memory.data());
    Launch("double", nullptr, 1, 32, 0, Double, memory.data());
  }
  EXPECT_EQ(memory.Get(), std::vector<int>(4, 3 * 1024 - 2));
  Check(cudaStreamDestroy(blocking), "stream");

  int late = 0;
  for (int seed = 0; seed < 40; ++seed) {
    SetSeed(static_cast<uint64_t>(seed));
    const Stream other;
    const Memory<int> number(std::vector<int>(4, 1));
    Launch("add", other, 1, 32, 0, AddOne, number.data());
    late += number.Get() == std::vector<int>(4, 1);
    Check(cudaDeviceSynchronize(), "all");
  }
  EXPECT_GT(late, 5);
}

TEST(EmulatedGpuStreams, DestroyedStreamsFinishTheirWork) {
  const Memory<int> memory(std::vector<int>(4, 1));
  int calls = 0;
  {
    const Stream stream;
    Launch("add", stream, 1, 32, 0, AddOne, memory.data());
    Check(cudaLaunchHostFunc(
              stream, [](void* to) { ++*static_cast<int*>(to); }, &calls),
          "host");
  }
  EXPECT_EQ(calls, 0);
  Check(cudaDeviceSynchronize(), "all");
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(memory.Get(), std::vector<int>(4, 2));
}

TEST(EmulatedGpuStreams, HostThreadsUseTheirOwnStreams) {
  std::vector<std::thread> threads;
  std::vector<std::vector<int>> results(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&results, t] {
      const Stream stream;
      const Memory<int> memory(4);
      std::vector<int> from(4, t);
      std::vector<int> to(4);
      Check(Upload(memory, from.data(), stream), "up");
      for (int i = 0; i < 50; ++i) {
        Launch("add", stream, 1, 64, 0, AddOne, memory.data());
        if (i % 10 == 0) stream.Wait();
      }
      Check(Download(to.data(), memory, stream), "down");
      stream.Wait();
      results[static_cast<size_t>(t)] = to;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int t = 0; t < 4; ++t) {
    EXPECT_EQ(results[static_cast<size_t>(t)], std::vector<int>(4, t + 50));
  }
}

TEST(EmulatedGpuMemory, IsLimited) {
  ASSERT_EQ(setenv("MF_EMULATED_GPU_BYTES", "1000000", 1), 0);
  size_t free_bytes = 0;
  size_t total = 0;
  {
    const Memory<char> most(900000);
    Check(cudaMemGetInfo(&free_bytes, &total), "info");
    EXPECT_EQ(total, 1000000u);
    EXPECT_EQ(free_bytes, 100000u);
    void* more = &total;
    EXPECT_EQ(cudaMalloc(&more, 100001), cudaErrorMemoryAllocation);
    EXPECT_EQ(more, nullptr);
    EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
    EXPECT_STREQ(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory");
  }
  Check(cudaMemGetInfo(&free_bytes, &total), "info");
  EXPECT_EQ(free_bytes, 1000000u);
  unsetenv("MF_EMULATED_GPU_BYTES");
}

TEST(EmulatedGpuMemory, WrongAddressesAreRefused) {
  const Memory<int> memory(4);
  int host[8] = {};
  EXPECT_EQ(cudaFree(host), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFreeHost(memory.data()), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(memory.data(), host, kBytes + 1, cudaMemcpyHostToDevice),
            cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host, memory.data() + 1, kBytes, cudaMemcpyDeviceToHost),
            cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host, host + 4, kBytes, cudaMemcpyDeviceToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemset(host, 0, kBytes), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host, memory.data(), kBytes, cudaMemcpyDeviceToHost), cudaSuccess);
}

TEST(EmulatedGpuMemory, FreeingWaitsForTheWork) {
  const Stream stream;
  int* memory = nullptr;
  int* host = nullptr;
  Check(cudaMalloc(&memory, kBytes), "memory");
  Check(cudaMallocHost(&host, kBytes), "memory");
  std::vector<int> to(4, 1);
  for (int i = 0; i < 4; ++i) host[i] = i;
  Check(cudaMemcpyAsync(memory, host, kBytes, cudaMemcpyHostToDevice, stream), "up");
  Check(cudaMemcpyAsync(to.data(), memory, kBytes, cudaMemcpyDeviceToHost, stream), "down");
  Check(cudaFreeHost(host), "memory");
  Check(cudaFree(memory), "memory");
  EXPECT_EQ(to, (std::vector<int>{0, 1, 2, 3}));
}

TEST(EmulatedGpuDevice, IsOneOrNone) {
  int count = -1;
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaSuccess);
  EXPECT_EQ(count, 1);
  EXPECT_EQ(cudaSetDevice(1), cudaErrorInvalidDevice);
  cudaDeviceProp properties = {};
  Check(cudaGetDeviceProperties(&properties, 0), "properties");
  EXPECT_EQ(properties.sharedMemPerBlockOptin, 227u * 1024u);
  ASSERT_EQ(setenv("MF_EMULATED_GPU_DEVICES", "0", 1), 0);
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaErrorNoDevice);
  EXPECT_EQ(count, 0);
  unsetenv("MF_EMULATED_GPU_DEVICES");
}

}  // namespace
}  // namespace mf::emulated_gpu
