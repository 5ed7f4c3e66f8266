// Weights whose readers see bf16 while training keeps the f32 (the master) behind it, in the memory
// of the f32 alone: `high` is the master rounded to bf16, `low` is what is missing, so that
//   bits of the master = (high << 16) + low,   low from -2^15 to 2^15 - 1.
// Rounding is to nearest, halves away from zero: with halves to even some `high` would stand for
// 2^16 + 1 masters. A NaN stays one unless its payload is full, which arithmetic never makes.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "common/base/buffer.h"

namespace mf {

/// A row's weights: f32, or split.
struct WeightRow {
  WeightRow() = default;
  WeightRow(float* row) : f32(row) {}  // NOLINT(google-explicit-constructor): the usual case
  WeightRow(uint16_t* high_row, int16_t* low_row) : high(high_row), low(low_row) {}
  bool split() const { return high != nullptr; }
  /// The row from a column on.
  WeightRow From(size_t column) const {
    return split() ? WeightRow(high + column, low + column) : WeightRow(f32 + column);
  }

  float* f32 = nullptr;
  uint16_t* high = nullptr;
  int16_t* low = nullptr;
};

inline uint16_t HighOf(float master) {
  return static_cast<uint16_t>((std::bit_cast<uint32_t>(master) + 0x8000u) >> 16);
}
inline void SplitWeight(float master, uint16_t* high, int16_t* low) {
  *high = HighOf(master);
  const uint32_t rest = std::bit_cast<uint32_t>(master) - (uint32_t{*high} << 16);
  *low = static_cast<int16_t>(static_cast<int32_t>(rest));
}
inline float JoinWeight(uint16_t high, int16_t low) {
  return std::bit_cast<float>((uint32_t{high} << 16) + static_cast<uint32_t>(int32_t{low}));
}

/// `source` and `to` hold f32 of any alignment.
inline void SplitRow(const void* source, const WeightRow& to, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    SplitWeight(LoadUnaligned<float>(source, i), to.high + i, to.low + i);
  }
}
inline void JoinRow(const WeightRow& from, void* to, size_t count) {
  auto* out = static_cast<std::byte*>(to);
  for (size_t i = 0; i < count; ++i, out += sizeof(float)) {
    const float master = JoinWeight(from.high[i], from.low[i]);
    std::memcpy(out, &master, sizeof(master));
  }
}

}  // namespace mf
