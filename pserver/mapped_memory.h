// Zeroed memory straight from the system: a page costs nothing until it is touched, and growing
// never moves what is there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace mf {

/// One anonymous mapping; move-only. std::bad_alloc when the system refuses it.
class MappedMemory {
 public:
  MappedMemory() = default;
  explicit MappedMemory(size_t bytes);
  ~MappedMemory();
  MappedMemory(MappedMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  MappedMemory& operator=(MappedMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

/// Slots of `width` floats each (a multiple of 16, so rows are 64-byte aligned), numbered from 0,
/// in chunks that never move. One writer at a time.
class FloatSlots {
 public:
  FloatSlots() = default;
  /// `slots_per_chunk` is rounded up to a power of two.
  FloatSlots(size_t width, size_t slots_per_chunk);

  /// Makes slots [0, count) addressable. New memory is zero.
  void Reserve(size_t count);
  float* at(size_t slot) const {
    return chunks_[slot >> shift_].as<float>() + (slot & mask_) * width_;
  }
  size_t width() const { return width_; }
  uint64_t bytes() const { return (chunks_.size() << shift_) * width_ * sizeof(float); }

 private:
  size_t width_ = 0;
  int shift_ = 0;
  size_t mask_ = 0;
  std::vector<MappedMemory> chunks_;
};

}  // namespace mf
