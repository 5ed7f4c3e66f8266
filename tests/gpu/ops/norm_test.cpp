// Norms and column sums against the oracle's formulas.
#include "worker/compute/cuda/kernels/norm.h"

#include <cmath>

#include "tests/gpu/ops/harness.h"
#include "tests/support/oracle/oracle_ops.h"
#include "worker/compute/cuda/kernels/column_sums.h"

namespace mf::gpu_test {
namespace {

oracle::Matrix Wide(const std::vector<float>& x, size_t columns) {
  return oracle::Matrix(x.size() / columns, columns, gpu_test::Wide(x));
}

// A row near its eps divides by 0.003; sums over a row are trees of at most 5 + width / 32
// additions.
double Tolerance(size_t width) {
  // The mean of two or three numbers that happen to be close cancels most of their digits.
  return width < 8 ? 5000 : 60;
}

}  // namespace

GPU_TEST(Norm) {
  for (const NormKind kind : {NormKind::kRmsNorm, NormKind::kLayerNorm}) {
    const bool layer = kind == NormKind::kLayerNorm;
    for (const size_t width : {1, 2, 3, 31, 32, 33, 128, 640, 1000}) {
      if (layer && width == 1) continue;  // nothing is left of a single number
      for (const size_t rows : {1, 7, 8, 63, 65, 130}) {
        std::vector<float> x = RandomNormals(rows * width);
        for (size_t i = 0; i < width; ++i) x[i] = 1e-3f * x[i] + 0.01f;  // eps matters
        const std::vector<float> gain = RandomNormals(width), bias = RandomNormals(width);
        const std::vector<float> dy = RandomNormals(rows * width);
        const std::vector<float> residual = RandomNormals(rows * width);
        const Array<float> d_x(x), d_gain(gain), d_bias(bias), d_dy(dy), d_dx(residual);
        const Array<float> d_y(rows * width), d_dgain(width), d_dbias(width);
        const Array<float> scratch(cuda::NormScratch(rows, width));
        const NormParameters norm{kind, width, d_gain.data(), layer ? d_bias.data() : nullptr};
        cuda::NormForward(Stream(), norm, d_x.data(), rows, d_y.data());
        // dx in the residual's place, as the model does it.
        cuda::NormBackward(Stream(), norm, d_x.data(), d_dy.data(), rows,
                           {.residual = d_dx.data(),
                            .dx = d_dx.data(),
                            .dgain = d_dgain.data(),
                            .dbias = layer ? d_dbias.data() : nullptr},
                           scratch.data());
        const oracle::Matrix wide = Wide(x, width);
        const oracle::NormGradient expected =
            oracle::NormBackward(kind, wide, Wide(dy, width), gpu_test::Wide(gain));
        const auto check = [&](const char* what, const std::vector<float>& got,
                               const std::vector<double>& want, double size = 1) {
          const double error = Error(got, want, size);
          Expect(error < Tolerance(width), "%s %zu x %zu: %g eps", what, rows, width, error);
        };
        check("y", d_y.Get(),
              oracle::Norm(kind, wide, gpu_test::Wide(gain),
                           layer ? gpu_test::Wide(bias) : std::vector<double>())
                  .values);
        check("dx", d_dx.Get(), oracle::Add(expected.dx, Wide(residual, width)).values);
        const double sum = std::sqrt(static_cast<double>(rows));
        check("dgain", d_dgain.Get(), expected.dgain, sum);
        if (layer) check("dbias", d_dbias.Get(), expected.dbias, sum);
      }
    }
  }
}

GPU_TEST(ColumnSums) {
  for (const size_t width : {1, 5, 127, 128, 129, 1536}) {
    for (const size_t rows : {1, 63, 64, 65, 300}) {
      const std::vector<float> x = RandomNormals(rows * width);
      const Array<float> d_x(x), sums(width), scratch(cuda::ColumnSumsScratch(rows, width));
      cuda::ColumnSums(Stream(), d_x.data(), rows, width, scratch.data(), sums.data());
      const double size = std::sqrt(static_cast<double>(rows));
      const double error = Error(sums.Get(), oracle::ColumnSums(Wide(x, width)), size);
      Expect(error < 20, "%zu x %zu: %g eps", rows, width, error);
    }
  }
}

}  // namespace mf::gpu_test
