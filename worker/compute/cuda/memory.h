// Memory of the GPU and memory of the host that a GPU can copy from and to by itself (pinned).
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/buffer.h"
#include "common/base/mutex.h"
#include "worker/compute/cuda/kernels/launch.h"

namespace mf::cuda {

/// A block of GPU memory, uninitialised.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  /// Throws CudaError, with what is free and what to change, if there is not enough. `what` is who
  /// asks.
  DeviceMemory(size_t bytes, const char* what);
  ~DeviceMemory();
  DeviceMemory(DeviceMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  void* data() const { return data_; }

  /// What all blocks of this process have together.
  static size_t TotalBytes();

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

/// "1.25 GiB".
std::string Gib(size_t bytes);

/// Cuts a block of memory into arrays, each at a multiple of 256 bytes. Over no memory it only
/// counts: a layout is run once to know its size and once to place it.
class Layout {
 public:
  explicit Layout(void* memory = nullptr) : base_(static_cast<std::byte*>(memory)) {}

  template <class T>
  void Take(size_t count, T** array) {
    *array = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += (count * sizeof(T) + 255) / 256 * 256;
  }
  size_t bytes() const { return used_; }

 private:
  std::byte* base_;
  size_t used_ = 0;
};

/// Pinned buffers. Messages are made of them, so they come back when the last message that holds
/// one has gone, and nobody writes to them until then. Thread-safe.
class PinnedPool {
 public:
  PinnedPool() : free_(std::make_shared<Free>()) {}
  /// Uninitialised. Throws CudaError.
  Buffer Take(size_t bytes);
  /// Of all blocks so far, in use or free: what the pool has grown to.
  size_t bytes_made() const;

 private:
  struct Free {
    std::atomic<size_t> made{0};
    Mutex mutex;
    std::map<size_t, std::vector<std::byte*>> blocks MF_GUARDED_BY(mutex);  // by size
    ~Free();
  };
  std::shared_ptr<Free> free_;
};

}  // namespace mf::cuda
