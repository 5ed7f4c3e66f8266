// What the emulator's own tests share.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <vector>

#include "worker/compute/cuda/kernels/launch.h"

namespace mf::emulated_gpu {

/// Memory of the GPU, freed at the end.
template <class T>
class Memory {
 public:
  explicit Memory(size_t count) : count_(count) {
    cuda::Check(cudaMalloc(&data_, count * sizeof(T)), "memory");
  }
  explicit Memory(const std::vector<T>& from) : Memory(from.size()) {
    cuda::Check(cudaMemcpy(data_, from.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), "copy");
  }
  ~Memory() { cudaFree(data_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  T* data() const { return data_; }
  /// Waits for the default stream.
  std::vector<T> Get() const {
    std::vector<T> out(count_);
    cuda::Check(cudaMemcpy(out.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost), "copy");
    return out;
  }

 private:
  T* data_ = nullptr;
  size_t count_;
};

/// A stream that is in no order with others.
class Stream {
 public:
  Stream() { cuda::Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream"); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }
  void Wait() const { cuda::Check(cudaStreamSynchronize(stream_), "stream"); }

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace mf::emulated_gpu
