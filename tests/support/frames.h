// Frames to send, and whether they arrived.
#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "common/base/buffer.h"

namespace mf {

inline Frame Bytes(size_t size, uint64_t seed) {
  Buffer buffer(size);
  std::mt19937_64 random(seed);
  for (size_t i = 0; i < size; ++i) buffer.data()[i] = static_cast<std::byte>(random());
  return buffer;
}

template <class T>
Buffer BufferOf(const std::vector<T>& values) {
  Buffer buffer(values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(buffer.data(), values.data(), buffer.size());
  return buffer;
}

inline bool Same(const Frame& a, const Frame& b) {
  return a.size() == b.size() && (a.size() == 0 || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

}  // namespace mf
