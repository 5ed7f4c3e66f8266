// Runs a grid: its blocks one after another in a random order, the threads of a block as fibers.
#pragma once

#include <cstddef>
#include <functional>

#include "emulated_gpu/vector_types.h"
#include "tests/emulated_gpu/random.h"

namespace mf::emulated_gpu {

inline constexpr unsigned kWarpLanes = 32;
inline constexpr unsigned kMaxThreads = 1024;
inline constexpr size_t kMaxSharedBytes = 227 * 1024;

struct Grid {
  const void* kernel;  // for messages
  dim3 blocks;
  dim3 threads;
  size_t shared_bytes;
  std::function<void()> thread;
};

/// Between barriers, threads run in a random order. In some stretches warps take turns, in others
/// one warp after the other runs as far as it can: that shows other missing barriers. One caller at
/// a time. Faults (see Fault()) end the program.
void RunGrid(const Grid& grid, Dice dice);

}  // namespace mf::emulated_gpu
