// Bytes with shared ownership: what a message frame is made of, so that one buffer can be in
// several messages (the same indices go to every server) and be handed to kernels without a copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "common/base/buffer_pool.h"

namespace mf {

/// An owned run of bytes, 64-byte aligned, written by one owner before it is shared. Its memory
/// comes from the pool (common/base/buffer_pool.h) and goes back there.
class Buffer {
 public:
  Buffer() = default;
  /// Uninitialised. std::bad_alloc when the system refuses it.
  explicit Buffer(size_t bytes);
  /// Memory of another kind than the pool's, such as a GPU's copies need: `memory` holds `bytes`.
  Buffer(std::shared_ptr<std::byte> memory, size_t bytes)
      : data_(std::move(memory)), size_(bytes) {}

  std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_.get());
  }
  const std::shared_ptr<std::byte>& owner() const { return data_; }

 private:
  std::shared_ptr<std::byte> data_;
  size_t size_ = 0;
};

/// A read-only view that keeps its bytes alive. Frames from the network have no alignment: read
/// scalars with LoadUnaligned, vectors with unaligned loads.
class Frame {
 public:
  Frame() = default;
  Frame(std::shared_ptr<const void> owner, const void* data, size_t size)
      : owner_(std::move(owner)), data_(static_cast<const std::byte*>(data)), size_(size) {}
  Frame(const Buffer& buffer)  // NOLINT: a buffer that is done being written is a frame
      : owner_(buffer.owner()), data_(buffer.data()), size_(buffer.size()) {}

  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  /// `size` of its bytes, from `begin` on.
  Frame Part(size_t begin, size_t size) const { return {owner_, data_ + begin, size}; }
  const std::shared_ptr<const void>& owner() const { return owner_; }
  /// For kernels, which load unaligned.
  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_);
  }

 private:
  std::shared_ptr<const void> owner_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// The frames of a message. Their list is from the pool, too.
using Frames = std::vector<Frame, PoolAllocator<Frame>>;

/// The `index`-th T at `base`, which may have any alignment.
template <class T>
T LoadUnaligned(const void* base, size_t index) {
  T value;
  std::memcpy(&value, static_cast<const std::byte*>(base) + index * sizeof(T), sizeof(T));
  return value;
}

}  // namespace mf
