// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011). A value depends only on (key, counter), so nothing has to be stored or
// ordered.
#pragma once

#include <array>
#include <cstdint>

namespace mf {

/// The four words for `counter` under `key`.
std::array<uint32_t, 4> Philox(uint64_t key, const std::array<uint32_t, 4>& counter);

/// Mixes two 64-bit values into a key (splitmix64 finaliser); used as RandomKey(seed, tensor id).
uint64_t RandomKey(uint64_t a, uint64_t b);

/// A uniform integer in [0, bound) from 64 random bits (multiply-high; bias below bound / 2^64).
uint64_t RandomBelow(uint64_t bits, uint64_t bound);

/// A uniform double in [0, 1) from 64 random bits.
double RandomUnit(uint64_t bits);

/// The oracle of the row generator in common/kernels/generate.h: the standard normal number at
/// (key, row, column), in double.
double RandomNormal(uint64_t key, uint64_t row, uint32_t column);

}  // namespace mf
