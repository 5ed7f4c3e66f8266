// Keys of snapshot entries as bytes: big-endian space, then big-endian id, so that the order of
// bytes is the order of (space, id).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace mf {

struct SnapshotKey {
  uint32_t space = 0;
  uint64_t id = 0;
  auto operator<=>(const SnapshotKey&) const = default;
};

inline constexpr size_t kSnapshotKeyBytes = 12;

inline std::array<char, kSnapshotKeyBytes> EncodeKey(const SnapshotKey& key) {
  std::array<char, kSnapshotKeyBytes> bytes;
  for (size_t i = 0; i < 4; ++i) bytes[i] = static_cast<char>(key.space >> (24 - 8 * i));
  for (size_t i = 0; i < 8; ++i) bytes[4 + i] = static_cast<char>(key.id >> (56 - 8 * i));
  return bytes;
}

/// REQUIRES: kSnapshotKeyBytes bytes.
inline SnapshotKey DecodeKey(std::string_view bytes) {
  SnapshotKey key;
  for (size_t i = 0; i < 4; ++i) key.space = key.space << 8 | static_cast<uint8_t>(bytes[i]);
  for (size_t i = 4; i < 12; ++i) key.id = key.id << 8 | static_cast<uint8_t>(bytes[i]);
  return key;
}

}  // namespace mf
