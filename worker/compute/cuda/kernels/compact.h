// Keeps some of a list, in order, in three kernels: tiles count what they keep, one block turns the
// counts into places, tiles put what they keep there. Included by .cu files only.
//
// `List` is a class of device code:
//   uint32_t size() const             how long the list is (may be read from GPU memory)
//   bool Keep(uint32_t i) const       whether number i stays
//   void Put(uint32_t i, uint32_t to) number i is the to-th of those that stay
// Keep(i) is asked once in each pass; in the second by the thread that then calls Put(i).
#pragma once

#include <cuda_runtime.h>

#include "worker/compute/cuda/kernels/device_code.h"
#include "worker/compute/cuda/kernels/launch.h"

namespace mf::cuda {

inline constexpr unsigned kTileWarps = 8;
inline constexpr unsigned kTileThreads = kTileWarps * kWarp;
inline constexpr unsigned kTileRounds = 8;  // a warp takes 32 neighbours a round
inline constexpr unsigned kTile = kTileThreads * kTileRounds;

/// Where the calling lane's warp begins in the list.
__device__ inline uint32_t FirstOfWarp() {
  return blockIdx.x * kTile + WarpOfBlock() * kTileRounds * kWarp;
}

/// How many the warp keeps; kept[r] = a bit for each lane that keeps its number of round r.
template <class List>
__device__ inline uint32_t Ballots(const List& list, uint32_t (&kept)[kTileRounds]) {
  const uint32_t size = list.size();
  const uint32_t first = FirstOfWarp() + LaneOfWarp();
  uint32_t count = 0;
#pragma unroll
  for (unsigned r = 0; r < kTileRounds; ++r) {
    const uint32_t i = first + r * kWarp;
    kept[r] = __ballot_sync(kAllLanes, i < size && list.Keep(i));
    count += static_cast<uint32_t>(__popc(kept[r]));
  }
  return count;
}

/// counts[tile] = how many the tile keeps.
template <class List>
__global__ void __launch_bounds__(kTileThreads) CountTiles(List list, uint32_t* counts) {
  uint32_t* const of_warps = SharedMemory<uint32_t>();
  uint32_t kept[kTileRounds];
  const uint32_t count = Ballots(list, kept);
  if (LaneOfWarp() == 0) of_warps[WarpOfBlock()] = count;
  __syncthreads();
  if (threadIdx.x != 0) return;
  uint32_t sum = 0;
  for (unsigned w = 0; w < kTileWarps; ++w) sum += of_warps[w];
  counts[blockIdx.x] = sum;
}

/// counts[tile] becomes the sum of the counts before it; returns the sum of all. For one block of
/// kTileThreads threads; `shared` is kTileThreads numbers.
inline __device__ uint32_t PlacesOfTiles(uint32_t* counts, uint32_t tiles, uint32_t* shared) {
  uint32_t before = 0;  // all tiles of the rounds before
  for (uint32_t base = 0; base < tiles; base += kTileThreads) {
    const uint32_t tile = base + threadIdx.x;
    const uint32_t count = tile < tiles ? counts[tile] : 0;
    shared[threadIdx.x] = count;
    __syncthreads();
    for (unsigned step = 1; step < kTileThreads; step *= 2) {
      const uint32_t added = threadIdx.x >= step ? shared[threadIdx.x - step] : 0;
      __syncthreads();  // all have read before any adds
      shared[threadIdx.x] += added;
      __syncthreads();
    }
    if (tile < tiles) counts[tile] = before + shared[threadIdx.x] - count;
    before += shared[kTileThreads - 1];
    __syncthreads();  // all have read the sum before the next round overwrites it
  }
  return before;
}

/// Puts what tile t keeps at places[t] and after.
template <class List>
__global__ void __launch_bounds__(kTileThreads) PutTiles(List list, const uint32_t* places) {
  uint32_t* const of_warps = SharedMemory<uint32_t>();
  uint32_t kept[kTileRounds];
  const uint32_t count = Ballots(list, kept);
  if (LaneOfWarp() == 0) of_warps[WarpOfBlock()] = count;
  __syncthreads();
  uint32_t place = places[blockIdx.x];
  for (unsigned w = 0; w < WarpOfBlock(); ++w) place += of_warps[w];
  const uint32_t below = (1u << LaneOfWarp()) - 1;  // bits of the lanes before
#pragma unroll
  for (unsigned r = 0; r < kTileRounds; ++r) {
    if ((kept[r] >> LaneOfWarp() & 1) != 0) {
      const uint32_t to = place + static_cast<uint32_t>(__popc(kept[r] & below));
      list.Put(FirstOfWarp() + r * kWarp + LaneOfWarp(), to);
    }
    place += static_cast<uint32_t>(__popc(kept[r]));
  }
}

}  // namespace mf::cuda
