// The dynamic shared memory of the block that runs.
#pragma once

#include <cstddef>

namespace mf::emulated_gpu {

/// For a new block: `bytes` of shared memory full of NaN, and a guard behind them.
void PrepareSharedMemory(size_t bytes);
/// Ends the program if the first `beyond` bytes behind the block's `bytes` were written.
void CheckSharedMemory(size_t bytes, size_t beyond);

}  // namespace mf::emulated_gpu
