// For tests of the emulator itself.
#pragma once

#include <cstdint>

namespace mf::emulated_gpu {

/// The seed of all random orders: from the environment (MF_EMULATED_GPU_SEED) or a random one,
/// printed to stderr before the first work runs.
uint64_t Seed();
/// Starts all random orders again from `seed`.
void SetSeed(uint64_t seed);

}  // namespace mf::emulated_gpu
