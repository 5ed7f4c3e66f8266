#include "worker/compute/cuda/memory.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdio>

namespace mf::cuda {
namespace {

std::atomic<size_t> g_total_bytes{0};

/// Sizes are rounded up to eighths of a power of two: at most an eighth is lost, and blocks of
/// sizes that differ from one micro-batch to the next serve each other.
size_t SizeClass(size_t bytes) {
  const size_t step = std::max<size_t>(4096, std::bit_floor(bytes) / 8);
  return std::max<size_t>(1, (bytes + step - 1) / step) * step;
}

}  // namespace

std::string Gib(size_t bytes) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.2f GiB", static_cast<double>(bytes) / (size_t{1} << 30));
  return text;
}

size_t DeviceMemory::TotalBytes() { return g_total_bytes.load(); }

DeviceMemory::DeviceMemory(size_t bytes, const char* what) {
  if (bytes == 0) return;
  if (cudaMalloc(&data_, bytes) == cudaSuccess) {
    bytes_ = bytes;
    g_total_bytes += bytes;
    return;
  }
  static_cast<void>(cudaGetLastError());  // it is told here
  size_t free = 0;
  size_t total = 0;
  Check(cudaMemGetInfo(&free, &total), what);
  throw CudaError(std::string("the GPU's memory: ") + what + " needs " + Gib(bytes) + ", " +
                  Gib(free) + " of " + Gib(total) +
                  " are free; lower train.batch, exchange.in_flight or exchange.device_bytes");
}

DeviceMemory::~DeviceMemory() {
  if (data_ == nullptr) return;
  cudaFree(data_);
  g_total_bytes -= bytes_;
}

Buffer PinnedPool::Take(size_t bytes) {
  const size_t size = SizeClass(bytes);
  std::byte* block = nullptr;
  {
    MutexLock lock(free_->mutex);
    std::vector<std::byte*>& blocks = free_->blocks[size];
    if (!blocks.empty()) {
      block = blocks.back();
      blocks.pop_back();
    }
  }
  if (block == nullptr) {
    void* made = nullptr;
    if (cudaHostAlloc(&made, size, cudaHostAllocPortable) != cudaSuccess) {
      static_cast<void>(cudaGetLastError());
      throw CudaError("pinned memory of the host: " + Gib(size) + " beside the " +
                      Gib(bytes_made()) +
                      " of this lane cannot be had; lower train.batch or exchange.in_flight");
    }
    free_->made += size;
    block = static_cast<std::byte*>(made);
  }
  return Buffer(std::shared_ptr<std::byte>(block,
                                           [free = free_, size](std::byte* own) {
                                             MutexLock lock(free->mutex);
                                             free->blocks[size].push_back(own);
                                           }),
                bytes);
}

size_t PinnedPool::bytes_made() const { return free_->made.load(); }

PinnedPool::Free::~Free() {
  for (const auto& [size, list] : blocks) {
    for (std::byte* block : list) cudaFreeHost(block);
  }
}

}  // namespace mf::cuda
