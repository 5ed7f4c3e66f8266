// A row of a server's table as bytes, for snapshots; numbers are little-endian: u32 updated_at,
// then planes x width float32: w (of bf16 tables the f32 behind), and for Adam m and v, for Adagrad
// its sum of squares; the server's own columns, unpadded.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/base/status.h"
#include "common/run/column_blocks.h"

namespace mf {

inline size_t RowBytes(int planes, size_t width) {
  return sizeof(uint32_t) + static_cast<size_t>(planes) * width * sizeof(float);
}

/// Where plane `p` of an encoded row stands, f32 of any alignment.
template <class Byte>
Byte* PlaneIn(Byte* row, int p, size_t width) {
  return row + sizeof(uint32_t) + static_cast<size_t>(p) * width * sizeof(float);
}

/// A row of `planes` x `width`; `plane[p]` points at its numbers, or is null: that plane is left to
/// the caller (PlaneIn). `out` has RowBytes().
void EncodeRow(uint32_t updated_at, const float* const* plane, int planes, size_t width,
               std::byte* out);
/// Of a row with all `columns`: those of `range`.
void CutRow(const std::byte* whole, int planes, size_t columns, const ColumnRange& range,
            std::byte* out);
/// The other way: puts a server's columns in their place.
void PutIntoRow(const std::byte* part, int planes, const ColumnRange& range, std::byte* whole,
                size_t columns);
/// kFailed if `bytes` is not RowBytes().
Status DecodeRow(const std::byte* data, size_t bytes, int planes, size_t width,
                 uint32_t* updated_at, float* const* plane);

}  // namespace mf
