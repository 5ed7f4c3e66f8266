// bfloat16: the upper half of a float, rounded to nearest even; NaN stays NaN. Whole arrays go
// through common/kernels/wire.h. Half precision is only read, from files of other programs.
#pragma once

#include <bit>
#include <cstdint>

namespace mf {

inline uint16_t ToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

inline float FromBf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

/// IEEE 754 half precision: every value of it is a float.
inline float FromF16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = bits >> 10 & 0x1F, mantissa = bits & 0x3FF;
  if (exponent == 0) {  // zero and the subnormal ones: mantissa * 2^-24
    const float value = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(value));
  }
  const uint32_t widened = exponent == 0x1F ? 0xFF : exponent + 112;  // infinity and NaN stay so
  return std::bit_cast<float>(sign | widened << 23 | mantissa << 13);
}

}  // namespace mf
