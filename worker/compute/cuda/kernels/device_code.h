// What kernels share. Included by .cu files only. The kernels keep to what an emulator can run:
// shared memory is dynamic and comes from SharedMemory(), all threads of a warp take part in its
// shuffles, all threads of a block in its barriers.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace mf::cuda {

inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kAllLanes = 0xFFFFFFFFu;

extern __shared__ float4 dynamic_shared_memory[];

/// The block's dynamic shared memory, 16-byte aligned.
template <class T>
__device__ inline T* SharedMemory() {
  return reinterpret_cast<T*>(dynamic_shared_memory);
}

__device__ inline unsigned LaneOfWarp() { return threadIdx.x % kWarp; }
__device__ inline unsigned WarpOfBlock() { return threadIdx.x / kWarp; }

/// The sum over the warp, in all lanes, by the same tree always.
template <class T>
__device__ inline T WarpSum(T value) {
  for (unsigned step = kWarp / 2; step > 0; step /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, static_cast<int>(step));
  }
  return value;
}

}  // namespace mf::cuda
