// The one source of chance of a schedule: the same seed gives the same schedule on every machine.
#pragma once

#include <cstdint>
#include <random>

#include "common/base/random.h"

namespace mf::simulation {

class Dice {
 public:
  explicit Dice(uint64_t seed) : engine_(RandomKey(seed, 0x5EED)) {}

  /// In [0, bound).
  uint64_t Below(uint64_t bound) { return RandomBelow(engine_(), bound); }
  bool Chance(double probability) { return probability > 0 && RandomUnit(engine_()) < probability; }
  double Between(double low, double high) { return low + (high - low) * RandomUnit(engine_()); }
  /// One of the values.
  template <class T>
  T Of(std::initializer_list<T> values) {
    return values.begin()[Below(values.size())];
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace mf::simulation
