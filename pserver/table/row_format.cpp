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

void CutRow(const std::byte* whole, int planes, size_t columns, const ColumnRange& range,
            std::byte* out) {
  const auto width = static_cast<size_t>(range.size());
  std::memcpy(out, whole, sizeof(uint32_t));
  for (int p = 0; p < planes; ++p) {
    std::memcpy(PlaneIn(out, p, width),
                PlaneIn(whole, p, columns) + static_cast<size_t>(range.begin) * sizeof(float),
                width * sizeof(float));
  }
}

void PutIntoRow(const std::byte* part, int planes, const ColumnRange& range, std::byte* whole,
                size_t columns) {
  const auto width = static_cast<size_t>(range.size());
  std::memcpy(whole, part, sizeof(uint32_t));
  for (int p = 0; p < planes; ++p) {
    std::memcpy(PlaneIn(whole, p, columns) + static_cast<size_t>(range.begin) * sizeof(float),
                PlaneIn(part, p, width), width * sizeof(float));
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
