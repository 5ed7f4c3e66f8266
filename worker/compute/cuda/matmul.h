// Matrix products by cuBLAS, described as those of the CPU are (worker/compute/cpu/matmul.h).
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <memory>
#include <type_traits>

#include "worker/compute/cpu/matmul.h"
#include "worker/compute/cuda/memory.h"

namespace mf::cuda {

/// cuBLAS on one stream, with scratch of its own, so that streams that run side by side do not
/// change each other's order of sums.
class MatrixProducts {
 public:
  /// Products round their inputs to TF32 (11 bits) and add in float32. Throws CudaError.
  explicit MatrixProducts(cudaStream_t stream);

  /// product.c = alpha * op(a) * op(b) + beta * c, all on the GPU. Throws CudaError.
  void Multiply(const Product& product);

 private:
  DeviceMemory scratch_;
  struct Destroy {
    void operator()(cublasHandle_t handle) const { cublasDestroy(handle); }
  };
  std::unique_ptr<std::remove_pointer_t<cublasHandle_t>, Destroy> handle_;
};

}  // namespace mf::cuda
