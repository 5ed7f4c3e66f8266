#include "pserver/table/row_format.h"

#include <bit>
#include <cstring>
#include <string>

namespace mf {

// Snapshots are copied between machines: the bytes are those of a little-endian one.
static_assert(std::endian::native == std::endian::little);

void EncodeRow(uint32_t updated_at, const float* const* plane, int planes, size_t width,
               std::byte* out) {
  std::memcpy(out, &updated_at, sizeof(updated_at));
  for (int p = 0; p < planes; ++p) {
    if (plane[p] != nullptr) std::memcpy(PlaneIn(out, p, width), plane[p], width * sizeof(float));
  }
}

Status DecodeRow(const std::byte* data, size_t bytes, int planes, size_t width,
                 uint32_t* updated_at, float* const* plane) {
  if (bytes != RowBytes(planes, width)) {
    return Status::Failed("a row of " + std::to_string(bytes) + " bytes instead of " +
                          std::to_string(RowBytes(planes, width)) +
                          ": not of this configuration; use the snapshots of this run");
  }
  std::memcpy(updated_at, data, sizeof(*updated_at));
  for (int p = 0; p < planes; ++p) {
    if (plane[p] != nullptr) std::memcpy(plane[p], PlaneIn(data, p, width), width * sizeof(float));
  }
  return Status::Ok();
}

}  // namespace mf
