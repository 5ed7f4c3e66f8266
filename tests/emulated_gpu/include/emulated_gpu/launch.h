// Launching kernels by a function call.
#pragma once

#include <cstddef>
#include <functional>
#include <utility>

#include "emulated_gpu/host_api.h"
#include "emulated_gpu/vector_types.h"

struct cudaLaunchAttribute;

struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value);
template <class T>
cudaError_t cudaFuncSetAttribute(T* function, cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(function), attribute, value);
}

namespace mf::emulated_gpu {

/// Queues a grid whose threads each call `thread`; `kernel` says whose grid it is.
cudaError_t LaunchKernel(const cudaLaunchConfig_t& config, const void* kernel,
                         std::function<void()> thread);

}  // namespace mf::emulated_gpu

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  // Converted now, as a launch copies its parameters; each thread gets a copy of its own.
  const auto bound = [kernel](Parameters... parameters) {
    return std::function<void()>([kernel, parameters...] { kernel(parameters...); });
  };
  return mf::emulated_gpu::LaunchKernel(*config, reinterpret_cast<const void*>(kernel),
                                        bound(std::forward<Arguments>(arguments)...));
}
