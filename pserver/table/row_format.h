// A row of a server's table as bytes, for snapshots; numbers are little-endian: u32 updated_at,
// then its planes of float32, one after the other: w (of bf16 tables the f32 behind), and for Adam
// m and v, for Adagrad its sum of squares. A plane has a number for each of the server's own
// columns, unpadded, or for each of its own column blocks (Optimizer::by_block).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "common/base/status.h"
#include "common/run/tensor_share.h"
#include "pserver/table/optimizer.h"

namespace mf {

class RowFormat {
 public:
  /// Of what `share` has of a row.
  RowFormat(const TensorSpec& tensor, const TensorShare& share);
  /// Of rows with all columns.
  static RowFormat Whole(const TensorSpec& tensor, int64_t column_blocks) {
    return {tensor, ShareOf(tensor, column_blocks, 0, 1)};
  }

  size_t bytes() const { return bytes_; }
  int planes() const { return planes_; }
  /// How many numbers plane `p` has.
  size_t floats(int p) const { return plane_[static_cast<size_t>(p)].floats; }
  /// Where plane `p` of an encoded row stands, f32 of any alignment.
  template <class Byte>
  Byte* PlaneIn(Byte* row, int p) const {
    return row + plane_[static_cast<size_t>(p)].offset;
  }

  /// `plane[p]` points at the numbers of a plane, or is null: that plane is left to the caller
  /// (PlaneIn). `out` has bytes().
  void Encode(uint32_t updated_at, const float* const* plane, std::byte* out) const;
  /// Of a row in the form `whole`, with all columns: what this share has.
  void Cut(const RowFormat& whole, const std::byte* from, std::byte* out) const;
  /// The other way: puts a server's part in its place.
  void PutInto(const RowFormat& whole, const std::byte* part, std::byte* to) const;
  /// kFailed if `bytes` is not bytes().
  Status Decode(const std::byte* data, size_t bytes, uint32_t* updated_at,
                float* const* plane) const;

 private:
  struct Plane {
    size_t floats = 0;
    size_t offset = 0;  // bytes from the beginning of the row
    size_t first = 0;   // number of the whole row's plane
  };

  int planes_ = 0;
  size_t bytes_ = sizeof(uint32_t);
  std::array<Plane, 1 + kMomentsMax> plane_ = {};
};

}  // namespace mf
