// The emulator's random orders.
#pragma once

#include <bit>
#include <cstdint>

namespace mf::emulated_gpu {

/// splitmix64: small, and good from any seed.
class Dice {
 public:
  explicit Dice(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    state_ += 0x9E3779B97F4A7C15u;
    uint64_t x = state_;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
  }
  /// In [0, count).
  uint64_t Below(uint64_t count) { return Next() % count; }
  /// The number of a bit that is set in `bits`, which is not 0.
  unsigned Bit(uint32_t bits) {
    const unsigned turn = static_cast<unsigned>(Next() & 31u);
    const unsigned found =
        static_cast<unsigned>(std::countr_zero(std::rotr(bits, static_cast<int>(turn))));
    return (found + turn) & 31u;
  }

 private:
  uint64_t state_;
};

/// A generator for one launch, or one choice among streams: its own, so that what happens in one
/// does not change the orders in the next. Any thread.
Dice NextDice();

}  // namespace mf::emulated_gpu
