#include "worker/compute/cuda/matmul.h"

namespace mf::cuda {
namespace {

constexpr size_t kScratchBytes = size_t{32} << 20;  // what cuBLAS asks for on sm_90

void CheckBlas(cublasStatus_t code, const char* what) {
  if (code == CUBLAS_STATUS_SUCCESS) return;
  throw CudaError(std::string("cuBLAS: ") + what + ": " + cublasGetStatusString(code));
}

cublasOperation_t Flag(const MatrixView& matrix) {
  return matrix.transpose == Transpose::kYes ? CUBLAS_OP_T : CUBLAS_OP_N;
}

}  // namespace

MatrixProducts::MatrixProducts(cudaStream_t stream) : scratch_(kScratchBytes, "matrix products") {
  cublasHandle_t made = nullptr;
  CheckBlas(cublasCreate(&made), "start");
  handle_.reset(made);
  CheckBlas(cublasSetStream(made, stream), "stream");
  CheckBlas(cublasSetWorkspace(made, scratch_.data(), kScratchBytes), "scratch");
  CheckBlas(cublasSetMathMode(made, CUBLAS_TF32_TENSOR_OP_MATH), "TF32");
}

/// cuBLAS is column-major: to it, our row-major c is c^T = op(b)^T op(a)^T.
void MatrixProducts::Multiply(const Product& p) {
  if (p.m == 0 || p.n == 0) return;
  CheckBlas(
      cublasSgemm(handle_.get(), Flag(p.b), Flag(p.a), static_cast<int>(p.n), static_cast<int>(p.m),
                  static_cast<int>(p.k), &p.alpha, p.b.data, static_cast<int>(p.b.stride), p.a.data,
                  static_cast<int>(p.a.stride), &p.beta, p.c, static_cast<int>(p.c_stride)),
      "matrix product");
}

}  // namespace mf::cuda
