#include <cblas.h>

#include <algorithm>
#include <cstring>

#include "cublas_v2.h"
#include "emulated_gpu/warp_functions.h"
#include "tests/emulated_gpu/memory.h"
#include "tests/emulated_gpu/streams.h"

struct cublasContext {
  cudaStream_t stream = nullptr;
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
};

namespace mf::emulated_gpu {
namespace {

/// A column-major matrix of `rows` x `columns` must lie in the GPU's memory.
void CheckMatrix(const char* name, const float* at, int rows, int columns, int stride) {
  if (rows == 0 || columns == 0) return;
  const size_t count =
      static_cast<size_t>(stride) * static_cast<size_t>(columns - 1) + static_cast<size_t>(rows);
  if (!InDeviceMemory(at, count * sizeof(float))) {
    Fault("cublasSgemm: %s of %d x %d with stride %d is not in the GPU's memory", name, rows,
          columns, stride);
  }
}

CBLAS_TRANSPOSE Transposed(cublasOperation_t operation) {
  return operation == CUBLAS_OP_N ? CblasNoTrans : CblasTrans;
}

}  // namespace
}  // namespace mf::emulated_gpu

using namespace mf::emulated_gpu;  // NOLINT: the functions below are the emulator's, but global

const char* cublasGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED:
      return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_INTERNAL_ERROR:
      return "CUBLAS_STATUS_INTERNAL_ERROR";
  }
  return "unknown status";
}

cublasStatus_t cublasCreate(cublasHandle_t* handle) {
  if (handle == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  *handle = new cublasContext;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy(cublasHandle_t handle) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  handle->stream = stream;
  handle->workspace = nullptr;  // as cuBLAS does: back to its own
  handle->workspace_bytes = 0;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void* workspace, size_t bytes) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (reinterpret_cast<uintptr_t>(workspace) % 256 != 0) return CUBLAS_STATUS_INVALID_VALUE;
  handle->workspace = workspace;
  handle->workspace_bytes = bytes;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t /*mode*/) {
  return handle == nullptr ? CUBLAS_STATUS_NOT_INITIALIZED : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSgemm(cublasHandle_t handle, cublasOperation_t transpose_a,
                           cublasOperation_t transpose_b, int m, int n, int k, const float* alpha,
                           const float* a, int lda, const float* b, int ldb, const float* beta,
                           float* c, int ldc) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  const int rows_a = transpose_a == CUBLAS_OP_N ? m : k;
  const int rows_b = transpose_b == CUBLAS_OP_N ? k : n;
  if (m < 0 || n < 0 || k < 0 || alpha == nullptr || beta == nullptr || lda < std::max(1, rows_a) ||
      ldb < std::max(1, rows_b) || ldc < std::max(1, m)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (m == 0 || n == 0) return CUBLAS_STATUS_SUCCESS;
  CheckMatrix("a", a, rows_a, rows_a == m ? k : m, lda);
  CheckMatrix("b", b, rows_b, rows_b == k ? n : k, ldb);
  CheckMatrix("c", c, m, n, ldc);
  const auto multiply = [=, alpha = *alpha, beta = *beta, workspace = handle->workspace,
                         workspace_bytes = handle->workspace_bytes] {
    // A workspace that two streams share, or that is something else's memory, shows.
    if (workspace_bytes > 0) std::memset(workspace, 0xEE, std::min<size_t>(workspace_bytes, 4096));
    cblas_sgemm(CblasColMajor, Transposed(transpose_a), Transposed(transpose_b), m, n, k, alpha, a,
                lda, b, ldb, beta, c, ldc);
  };
  return Enqueue(handle->stream, multiply) == cudaSuccess ? CUBLAS_STATUS_SUCCESS
                                                          : CUBLAS_STATUS_EXECUTION_FAILED;
}
