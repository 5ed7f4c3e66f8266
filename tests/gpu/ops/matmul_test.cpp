// Matrix products: row-major views over cuBLAS, all transposes.
#include "worker/compute/cuda/matmul.h"

#include <cmath>

#include "tests/gpu/ops/harness.h"
#include "tests/support/oracle/oracle_ops.h"

namespace mf::gpu_test {

GPU_TEST(Matmul) {
  // TF32 keeps 11 bits of each input: a product errs by 2^-11, 4096 float epsilons; sums even out.
  const double tolerance = RoundsToTf32() ? 8192 : 20;
  cuda::MatrixProducts products(Stream());
  const auto matrix = [](const std::vector<float>& x, size_t rows, size_t columns, Transpose t) {
    return t == Transpose::kYes ? oracle::Transpose(oracle::Matrix(columns, rows, Wide(x)))
                                : oracle::Matrix(rows, columns, Wide(x));
  };
  struct Shape {
    size_t m, n, k;
  };
  for (const Shape s : {Shape{1, 1, 1}, {3, 5, 7}, {65, 257, 31}, {64, 256, 33}, {130, 30, 129}}) {
    for (const Transpose ta : {Transpose::kNo, Transpose::kYes}) {
      for (const Transpose tb : {Transpose::kNo, Transpose::kYes}) {
        for (const float beta : {0.0f, 1.0f}) {
          const std::vector<float> a = RandomNormals(s.m * s.k), b = RandomNormals(s.k * s.n);
          const std::vector<float> c = RandomNormals(s.m * s.n);
          oracle::Matrix expected =
              oracle::Multiply(matrix(a, s.m, s.k, ta), matrix(b, s.k, s.n, tb));
          for (size_t i = 0; i < c.size(); ++i) {
            expected.values[i] = 0.5 * expected.values[i] + static_cast<double>(beta * c[i]);
          }
          const Array<float> d_a(a), d_b(b);
          // With beta = 0 what was there does not count: the array stays poisoned.
          const Array<float> d_c = beta == 0 ? Array<float>(c.size()) : Array<float>(c);
          products.Multiply({.m = s.m,
                             .n = s.n,
                             .k = s.k,
                             .a = {d_a.data(), ta == Transpose::kYes ? s.m : s.k, ta},
                             .b = {d_b.data(), tb == Transpose::kYes ? s.k : s.n, tb},
                             .c = d_c.data(),
                             .c_stride = s.n,
                             .alpha = 0.5f,
                             .beta = beta});
          const double size = std::sqrt(static_cast<double>(s.k));
          const double error = Error(d_c.Get(), expected.values, size);
          Expect(error < tolerance, "%zu x %zu x %zu: %g eps", s.m, s.n, s.k, error);
        }
      }
    }
  }
}

}  // namespace mf::gpu_test
