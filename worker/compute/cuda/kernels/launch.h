// Calls of the CUDA runtime from host code: errors become exceptions that end at the backend's
// border (CudaCompute), where they are one Status. Host code of this folder is plain C++ as far as
// a compiler is concerned (kernels start by a function call, not by <<<>>>), so that the tests can
// run it on an emulated GPU.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace mf::cuda {

/// What went wrong on the GPU, for people.
class CudaError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Throws CudaError, naming `what`, unless `code` is a success.
inline void Check(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  throw CudaError(std::string(what) + ": " + cudaGetErrorString(code));
}

/// More dynamic shared memory than a kernel gets unasked.
inline constexpr size_t kSharedUnasked = 48 * 1024;

/// Starts `kernel` on `stream` with `blocks` blocks of `threads` threads that share `shared` bytes.
/// Nothing is started for an empty grid. Throws CudaError, naming `what`.
template <class... Parameters, class... Arguments>
void Launch(const char* what, cudaStream_t stream, dim3 blocks, unsigned threads, size_t shared,
            void (*kernel)(Parameters...), Arguments... arguments) {
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0) return;
  if (shared > kSharedUnasked) {
    Check(
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
        what);
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  Check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), what);
}

/// Whether runs of `numbers` floats that begin at these arrays can be moved 16 bytes at a time.
inline bool ByVectors(size_t numbers, std::initializer_list<const void*> arrays) {
  bool aligned = numbers % 4 == 0;
  for (const void* array : arrays) {
    aligned = aligned && reinterpret_cast<uintptr_t>(array) % 16 == 0;
  }
  return aligned;
}

/// ceil(count / size): how many blocks of `size` hold `count`.
inline unsigned BlocksFor(size_t count, size_t size) {
  return static_cast<unsigned>((count + size - 1) / size);
}

}  // namespace mf::cuda
