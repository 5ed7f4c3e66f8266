#include "pserver/table/row_format.h"

#include <bit>
#include <cstring>
#include <string>

namespace mf {

// Snapshots are copied between machines: the bytes are those of a little-endian one.
static_assert(std::endian::native == std::endian::little);

RowFormat::RowFormat(const TensorSpec& tensor, const TensorShare& share) {
  const Optimizer optimizer(tensor);
  planes_ = optimizer.planes();
  for (int p = 0; p < planes_; ++p) {
    const bool by_block = p > 0 && optimizer.by_block(p - 1);
    const size_t floats =
        by_block ? share.blocks.size() : static_cast<size_t>(share.columns.size());
    plane_[static_cast<size_t>(p)] = {
        floats, bytes_, static_cast<size_t>(by_block ? share.first_block : share.columns.begin)};
    bytes_ += floats * sizeof(float);
  }
}

void RowFormat::Encode(uint32_t updated_at, const float* const* plane, std::byte* out) const {
  std::memcpy(out, &updated_at, sizeof(updated_at));
  for (int p = 0; p < planes_; ++p) {
    if (plane[p] != nullptr) std::memcpy(PlaneIn(out, p), plane[p], floats(p) * sizeof(float));
  }
}

void RowFormat::Cut(const RowFormat& whole, const std::byte* from, std::byte* out) const {
  std::memcpy(out, from, sizeof(uint32_t));
  for (int p = 0; p < planes_; ++p) {
    const size_t first = plane_[static_cast<size_t>(p)].first;
    std::memcpy(PlaneIn(out, p), whole.PlaneIn(from, p) + first * sizeof(float),
                floats(p) * sizeof(float));
  }
}

void RowFormat::PutInto(const RowFormat& whole, const std::byte* part, std::byte* to) const {
  std::memcpy(to, part, sizeof(uint32_t));
  for (int p = 0; p < planes_; ++p) {
    const size_t first = plane_[static_cast<size_t>(p)].first;
    std::memcpy(whole.PlaneIn(to, p) + first * sizeof(float), PlaneIn(part, p),
                floats(p) * sizeof(float));
  }
}

Status RowFormat::Decode(const std::byte* data, size_t bytes, uint32_t* updated_at,
                         float* const* plane) const {
  if (bytes != bytes_) {
    return Status::Failed("a row of " + std::to_string(bytes) + " bytes instead of " +
                          std::to_string(bytes_) +
                          ": not of this configuration; use the snapshots of this run");
  }
  std::memcpy(updated_at, data, sizeof(*updated_at));
  for (int p = 0; p < planes_; ++p) {
    if (plane[p] != nullptr) std::memcpy(plane[p], PlaneIn(data, p), floats(p) * sizeof(float));
  }
  return Status::Ok();
}

}  // namespace mf
