// The GPU that a benchmark runs on: its clock, memory for what is timed, and what it can do at
// most.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "worker/compute/cuda/kernels/attention.h"
#include "worker/compute/cuda/kernels/launch.h"

namespace mf::cuda {

/// How often and how large.
struct Scale {
  int warm_up = 3;
  int runs = 25;
  size_t copy_bytes = size_t{1} << 30;
  size_t flush_bytes = size_t{256} << 20;  // more than any cache holds
  size_t matrix = 8192;
  size_t tokens = 8192;
  size_t tables = 64;
  size_t columns = 512;
  size_t small_tau = 8;
  size_t large_tau = 13;
  size_t vocabulary = 32000;
  AttentionShape attention = {4, 2048, 8, 64};
};
inline constexpr Scale kQuickScale = {1, 3,  1 << 20, 1 << 16, 64,  64,
                                      4, 64, 4,       9,       100, {2, 100, 2, 16}};

/// Throws CudaError wherever the GPU does not do what it should.
class GpuBench {
 public:
  explicit GpuBench(const Scale& scale);
  ~GpuBench();
  GpuBench(const GpuBench&) = delete;
  GpuBench& operator=(const GpuBench&) = delete;

  const Scale& scale() const { return scale_; }
  cudaStream_t stream() const { return stream_; }
  std::mt19937_64& random() { return random_; }

  /// GPU memory that stays until FreeMemory().
  template <class T>
  T* Take(size_t count) {
    return static_cast<T*>(TakeBytes(count * sizeof(T)));
  }
  template <class T>
  T* Upload(const std::vector<T>& from) {
    T* const to = Take<T>(from.size());
    Copy(to, from.data(), from.size() * sizeof(T));
    return to;
  }
  /// Normal numbers; after the first 2^20 they come again.
  float* Floats(size_t count);
  void FreeMemory();

  /// The median time of a run, the caches full of something else before each.
  double Microseconds(const std::function<void()>& run);

 private:
  void* TakeBytes(size_t bytes);
  void Copy(void* to, const void* from, size_t bytes);

  const Scale scale_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t start_ = nullptr;
  cudaEvent_t end_ = nullptr;
  void* flush_ = nullptr;
  std::mt19937_64 random_{1};
  std::vector<void*> memory_;
};

/// What the GPU can do.
struct GpuLimits {
  double copy_bytes_s = 0;  // bytes read and bytes written
  double tf32_flops_s = 0;
};

/// Measures it, prints it with the GPU's name.
GpuLimits PrintLimits(GpuBench& bench);

}  // namespace mf::cuda
