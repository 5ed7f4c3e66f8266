#include "worker/data/permutation.h"

#include "common/base/check.h"
#include "common/base/random.h"

namespace mf {
namespace {

constexpr int kFeistelRounds = 6;  // four already pass for random (Luby and Rackoff); cheap enough

}  // namespace

Permutation::Permutation(uint64_t key, uint64_t size) : key_(key), size_(size) {
  MF_CHECK(size >= 1);
  while (half_bits_ < 31 && (uint64_t{1} << (2 * half_bits_)) < size) ++half_bits_;
  MF_CHECK((uint64_t{1} << (2 * half_bits_)) >= size);
}

uint64_t Permutation::operator()(uint64_t index) const {
  MF_CHECK(index < size_);
  const uint32_t mask = static_cast<uint32_t>((uint64_t{1} << half_bits_) - 1);
  uint64_t value = index;
  do {
    uint32_t left = static_cast<uint32_t>(value >> half_bits_) & mask;
    uint32_t right = static_cast<uint32_t>(value) & mask;
    for (uint32_t round = 0; round < kFeistelRounds; ++round) {
      const uint32_t mixed = left ^ (Philox(key_, {right, round, 0, 0})[0] & mask);
      left = right;
      right = mixed;
    }
    value = (uint64_t{left} << half_bits_) | right;
  } while (value >= size_);
  return value;
}

}  // namespace mf
