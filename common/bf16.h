// bfloat16 on the wire: the upper half of a float, rounded to nearest even; NaN stays NaN.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "common/buffer.h"

namespace mf {

inline uint16_t ToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

inline float FromBf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

/// `dst` and `src` may have any alignment.
inline void PackBf16(void* dst, const float* src, size_t count) {
  auto* out = static_cast<std::byte*>(dst);
  for (size_t i = 0; i < count; ++i) {
    const uint16_t bits = ToBf16(src[i]);
    std::memcpy(out + 2 * i, &bits, 2);
  }
}

inline void UnpackBf16(float* dst, const void* src, size_t count) {
  for (size_t i = 0; i < count; ++i) dst[i] = FromBf16(LoadUnaligned<uint16_t>(src, i));
}

}  // namespace mf
