// Matrix products on the emulated GPU: tensor cores (wmma) and cuBLAS.
#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <gtest/gtest.h>
#include <mma.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "tests/emulated_gpu/testing.h"

namespace mf::emulated_gpu {
namespace {

namespace wmma = nvcuda::wmma;
using cuda::Check;
using cuda::Launch;

std::vector<float> Numbers(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out(count);
  std::generate(out.begin(), out.end(), [&] { return normal(random); });
  return out;
}

/// c [16][16] = 2 a b + c, a [16][8], b [8][16]; strides are longer than rows.
template <class LayoutA, class LayoutB>
__global__ void OneTile(const float* a, const float* b, float* c, wmma::layout_t layout) {
  wmma::fragment<wmma::matrix_a, 16, 16, 8, wmma::precision::tf32, LayoutA> a_tile;
  wmma::fragment<wmma::matrix_b, 16, 16, 8, wmma::precision::tf32, LayoutB> b_tile;
  wmma::fragment<wmma::accumulator, 16, 16, 8, float> product;
  wmma::fragment<wmma::accumulator, 16, 16, 8, float> sum;
  wmma::fill_fragment(product, 0.0f);
  wmma::load_matrix_sync(a_tile, a, 20);
  wmma::load_matrix_sync(b_tile, b, 24);
  wmma::load_matrix_sync(sum, c, 28, layout);
  for (int i = 0; i < a_tile.num_elements; ++i) a_tile.x[i] = wmma::__float_to_tf32(a_tile.x[i]);
  wmma::mma_sync(product, a_tile, b_tile, product);
  for (int i = 0; i < sum.num_elements; ++i) sum.x[i] += 2.0f * product.x[i];
  wmma::store_matrix_sync(c, sum, 28, layout);
}

template <class LayoutA, class LayoutB>
void CheckTile(wmma::layout_t layout) {
  const std::vector<float> a = Numbers(16 * 20, 1);
  const std::vector<float> b = Numbers(16 * 24, 2);
  const std::vector<float> c = Numbers(16 * 28, 3);
  const Memory<float> a_memory(a);
  const Memory<float> b_memory(b);
  const Memory<float> c_memory(c);
  Launch("tile", nullptr, 1, 32, 0, OneTile<LayoutA, LayoutB>, a_memory.data(), b_memory.data(),
         c_memory.data(), layout);
  std::vector<float> expected = c;
  constexpr bool a_rows = std::is_same_v<LayoutA, wmma::row_major>;
  constexpr bool b_rows = std::is_same_v<LayoutB, wmma::row_major>;
  for (size_t row = 0; row < 16; ++row) {
    for (size_t column = 0; column < 16; ++column) {
      double sum = 0;
      for (size_t k = 0; k < 8; ++k) {
        sum += static_cast<double>(a[a_rows ? row * 20 + k : k * 20 + row]) *
               b[b_rows ? k * 24 + column : column * 24 + k];
      }
      float& to = expected[layout == wmma::mem_row_major ? row * 28 + column : column * 28 + row];
      to = static_cast<float>(to + 2 * sum);
    }
  }
  const std::vector<float> got = c_memory.Get();
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 1e-5) << i;
}

TEST(EmulatedGpuProducts, TensorCores) {
  for (const wmma::layout_t layout : {wmma::mem_row_major, wmma::mem_col_major}) {
    CheckTile<wmma::row_major, wmma::row_major>(layout);
    CheckTile<wmma::row_major, wmma::col_major>(layout);
    CheckTile<wmma::col_major, wmma::row_major>(layout);
    CheckTile<wmma::col_major, wmma::col_major>(layout);
  }
}

__global__ void LoadFrom(const float* from, unsigned stride, bool other_lane) {
  wmma::fragment<wmma::matrix_a, 16, 16, 8, wmma::precision::tf32, wmma::row_major> tile;
  wmma::load_matrix_sync(tile, from + (other_lane && threadIdx.x == 9 ? 8 : 0), stride);
}

void Load(const float* from, unsigned stride, bool other_lane) {
  Launch("load", nullptr, 1, 32, 0, LoadFrom, from, stride, other_lane);
  cudaDeviceSynchronize();
}

TEST(EmulatedGpuProductsDeathTest, TilesMustBeAlignedAndTheSameForAllLanes) {
  const Memory<float> memory(1000);
  Load(memory.data() + 8, 12, false);
  EXPECT_DEATH(Load(memory.data() + 4, 12, false), "not aligned to 32 bytes");
  EXPECT_DEATH(Load(memory.data(), 13, false), "the stride 13 is not a multiple of 4");
  EXPECT_DEATH(Load(memory.data(), 12, true), "lane 9 names another matrix than lane 0");
}

/// One product on a stream, with or without beta, against a plain sum.
void CheckSgemm(cublasHandle_t handle, const Stream& stream, bool turn_a, bool turn_b, float beta) {
  const size_t m = 5, n = 7, k = 9, lda = 11, ldb = 13, ldc = 6;
  const std::vector<float> a = Numbers(lda * std::max(m, k), 1);
  const std::vector<float> b = Numbers(ldb * std::max(n, k), 2);
  const std::vector<float> c = beta == 0 ? std::vector<float>(ldc * n, NAN) : Numbers(ldc * n, 3);
  const Memory<float> a_memory(a);
  const Memory<float> b_memory(b);
  const Memory<float> c_memory(c);
  float alpha = 1.5f;
  float used_beta = beta;
  ASSERT_EQ(cublasSgemm(handle, turn_a ? CUBLAS_OP_T : CUBLAS_OP_N,
                        turn_b ? CUBLAS_OP_T : CUBLAS_OP_N, m, n, k, &alpha, a_memory.data(), lda,
                        b_memory.data(), ldb, &used_beta, c_memory.data(), ldc),
            CUBLAS_STATUS_SUCCESS);
  alpha = used_beta = NAN;  // they were read
  stream.Wait();
  const std::vector<float> got = c_memory.Get();
  for (size_t column = 0; column < n; ++column) {
    for (size_t row = 0; row < m; ++row) {
      double sum = 0;
      for (size_t i = 0; i < k; ++i) {
        sum += static_cast<double>(turn_a ? a[row * lda + i] : a[i * lda + row]) *
               (turn_b ? b[i * ldb + column] : b[column * ldb + i]);
      }
      const double before = beta == 0 ? 0 : static_cast<double>(beta) * c[column * ldc + row];
      ASSERT_NEAR(got[column * ldc + row], 1.5 * sum + before, 1e-5);
    }
    for (size_t row = m; row < ldc; ++row) {
      const float kept = got[column * ldc + row];
      ASSERT_TRUE(kept == c[column * ldc + row] || (std::isnan(kept) && beta == 0));
    }
  }
}

TEST(EmulatedGpuProducts, Sgemm) {
  const Stream stream;
  cublasHandle_t handle = nullptr;
  ASSERT_EQ(cublasCreate(&handle), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(cublasSetStream(handle, stream), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(cublasSetMathMode(handle, CUBLAS_TF32_TENSOR_OP_MATH), CUBLAS_STATUS_SUCCESS);
  for (const float beta : {0.0f, 1.0f, -0.5f}) {
    CheckSgemm(handle, stream, false, false, beta);
    CheckSgemm(handle, stream, false, true, beta);
    CheckSgemm(handle, stream, true, false, beta);
    CheckSgemm(handle, stream, true, true, beta);
  }
  const float one = 1;
  float* const none = nullptr;
  EXPECT_EQ(
      cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, 4, 4, 4, &one, none, 3, none, 4, &one, none, 4),
      CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(cublasDestroy(handle), CUBLAS_STATUS_SUCCESS);
}

TEST(EmulatedGpuProductsDeathTest, SgemmOutsideOfTheGpusMemory) {
  const Memory<float> memory(100);
  cublasHandle_t handle = nullptr;
  ASSERT_EQ(cublasCreate(&handle), CUBLAS_STATUS_SUCCESS);
  const float one = 1;
  const auto multiply = [&](int n) {
    cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, 10, n, 2, &one, memory.data(), 10, memory.data(),
                10, &one, memory.data(), 10);
  };
  EXPECT_DEATH(multiply(11), "cublasSgemm: [bc] of .* is not in the GPU's memory");
  EXPECT_EQ(cublasDestroy(handle), CUBLAS_STATUS_SUCCESS);
}

}  // namespace
}  // namespace mf::emulated_gpu
