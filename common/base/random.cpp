#include "common/base/random.h"

#include <cmath>

namespace mf {

std::array<uint32_t, 4> Philox(uint64_t key, const std::array<uint32_t, 4>& counter) {
  constexpr uint32_t kMultiply0 = 0xD2511F53, kMultiply1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  constexpr int kRounds = 10;
  std::array<uint32_t, 4> c = counter;
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t p0 = uint64_t{kMultiply0} * c[0];
    const uint64_t p1 = uint64_t{kMultiply1} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return c;
}

uint64_t RandomKey(uint64_t a, uint64_t b) {
  uint64_t x = a + 0x9E3779B97F4A7C15ull * (b + 1);
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

uint64_t RandomBelow(uint64_t bits, uint64_t bound) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>((static_cast<Wide>(bits) * bound) >> 64);
}

double RandomUnit(uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1.0p-53; }

double RandomNormal(uint64_t key, uint64_t row, uint32_t column) {
  constexpr double kTwoPi = 6.283185307179586476925;
  const auto words =
      Philox(key, {static_cast<uint32_t>(row), static_cast<uint32_t>(row >> 32), column / 4, 0});
  const uint32_t pair = (column % 4) / 2 * 2;
  const double radius = std::sqrt(-2 * std::log((words[pair] + 1.0) * 0x1.0p-32));
  const double angle = kTwoPi * (words[pair + 1] * 0x1.0p-32);
  return column % 2 == 0 ? radius * std::cos(angle) : radius * std::sin(angle);
}

}  // namespace mf
