// Zeroed memory straight from the system: a page costs nothing until it is touched, and growing
// never moves what is there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/base/mutex.h"

namespace mf {

/// kHuge: aligned to 2 MiB, and pages of that size are asked for. For memory that is filled soon: a
/// single byte of it may cost 2 MiB.
enum class Pages { kSmall, kHuge };

/// One anonymous mapping; move-only. std::bad_alloc when the system refuses it.
class MappedMemory {
 public:
  MappedMemory() = default;
  explicit MappedMemory(size_t bytes, Pages pages = Pages::kSmall);
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

/// The state of all tensors of a server: pieces cut one after the other from large mappings in huge
/// pages, so that many small tables share them. A piece should be filled soon after it was taken.
/// All are given back together. Any thread may take one.
class PageArena {
 public:
  /// Zeroed, aligned to 64 bytes. std::bad_alloc when the system refuses it.
  void* Take(size_t bytes);

 private:
  Mutex mutex_;
  std::vector<MappedMemory> blocks_ MF_GUARDED_BY(mutex_);
  std::byte* next_ MF_GUARDED_BY(mutex_) = nullptr;  // in the block that is cut
  size_t left_ MF_GUARDED_BY(mutex_) = 0;
};

/// Slots of `slot_bytes` each (a multiple of 32, or of 4 if they need not be aligned), numbered
/// from 0, in chunks that never move. One writer at a time.
class Slots {
 public:
  Slots() = default;
  /// `slots_per_chunk` is rounded up to a power of two. `arena` outlives it.
  Slots(PageArena& arena, size_t slot_bytes, size_t slots_per_chunk);
  /// A single chunk of `slots` slots, all addressable.
  static Slots Fixed(PageArena& arena, size_t slot_bytes, size_t slots);

  /// Makes slots [0, count) addressable. New memory is zero.
  void Reserve(size_t count);
  template <class T>
  T* at(size_t slot) const {
    return reinterpret_cast<T*>(chunks_[slot >> shift_] + (slot & mask_) * slot_bytes_);
  }
  uint64_t bytes() const { return bytes_; }

 private:
  PageArena* arena_ = nullptr;
  size_t slot_bytes_ = 0;
  int shift_ = 0;
  size_t mask_ = 0;
  uint64_t bytes_ = 0;
  std::vector<std::byte*> chunks_;
};

}  // namespace mf
