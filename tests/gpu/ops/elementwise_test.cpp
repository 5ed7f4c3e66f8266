// Cross entropy, embedding, biases, residuals, rotary embedding, GELU.
#include "worker/compute/cuda/kernels/elementwise.h"

#include <cmath>

#include "tests/gpu/ops/harness.h"
#include "tests/support/oracle/oracle_ops.h"
#include "worker/compute/cuda/kernels/cross_entropy.h"
#include "worker/compute/cuda/kernels/embedding.h"

namespace mf::gpu_test {
namespace {

std::vector<uint32_t> RandomIds(size_t count, uint32_t below) {
  std::uniform_int_distribution<uint32_t> uniform(0, below - 1);
  std::vector<uint32_t> out(count);
  for (uint32_t& id : out) id = uniform(Random());
  return out;
}

}  // namespace

GPU_TEST(CrossEntropy) {
  for (const size_t vocabulary : {1, 2, 31, 257, 512, 1000, 5003}) {
    for (const size_t rows : {1, 5}) {
      for (const double spread : {1.0, 30.0}) {
        const std::vector<float> logits = RandomNormals(rows * vocabulary, spread);
        const std::vector<uint32_t> targets = RandomIds(rows, static_cast<uint32_t>(vocabulary));
        const float scale = 0.37f;
        const Array<float> plain(logits), d_logits(logits);
        const Array<uint32_t> d_targets(targets);
        const Array<double> nll(rows), nll_of_backward(rows);
        cuda::CrossEntropy(Stream(), plain.data(), d_targets.data(), rows, vocabulary, nll.data());
        cuda::CrossEntropyBackward(Stream(), d_logits.data(), d_targets.data(), rows, vocabulary,
                                   scale, nll_of_backward.data());
        const oracle::Matrix log_softmax =
            oracle::LogSoftmax(oracle::Matrix(rows, vocabulary, Wide(logits)));
        std::vector<double> expected(rows * vocabulary);
        const std::vector<double> got = nll.Get();
        Expect(got == nll_of_backward.Get(), "forward and backward tell another loss");
        for (size_t row = 0; row < rows; ++row) {
          const double want = -log_softmax.at(row, targets[row]);
          Expect(std::abs(got[row] - want) < 1e-5 * (1 + std::abs(want)), "nll %g, not %g",
                 got[row], want);
          for (size_t i = 0; i < vocabulary; ++i) {
            const double one = i == targets[row] ? 1 : 0;
            expected[row * vocabulary + i] =
                static_cast<double>(scale) * (std::exp(log_softmax.at(row, i)) - one);
          }
        }
        // Of a target that is nearly certain share - scale cancels: relative to `scale`.
        std::vector<float> gradient = d_logits.Get();
        gradient.push_back(scale);
        expected.push_back(static_cast<double>(scale));
        const double error = Error(gradient, expected);
        Expect(error < 20, "%zu of %zu: gradient %g eps", rows, vocabulary, error);
        Expect(plain.Get() == logits, "the loss alone changed the logits");
      }
    }
  }
}

GPU_TEST(CrossEntropyShowsNan) {
  std::vector<float> logits = RandomNormals(600);
  logits[570] = std::nanf("");
  const Array<float> d_logits(logits);
  const Array<uint32_t> targets(std::vector<uint32_t>{3});
  const Array<double> nll(1);
  cuda::CrossEntropyBackward(Stream(), d_logits.data(), targets.data(), 1, 600, 1, nll.data());
  Expect(std::isnan(nll.Get()[0]), "the loss of a NaN is %g", nll.Get()[0]);
  for (const float gradient : d_logits.Get()) Expect(std::isnan(gradient), "gradient %g", gradient);
}

GPU_TEST(Embedding) {
  for (const size_t width : {1, 127, 128, 300}) {
    for (const size_t tokens : {1, 50}) {
      const uint32_t vocabulary = 23;
      const std::vector<float> matrix = RandomNormals(vocabulary * width);
      const std::vector<float> dx = RandomNormals(tokens * width);
      const std::vector<uint32_t> ids = RandomIds(tokens, vocabulary);
      const Array<float> d_matrix(matrix), x(tokens * width), d_dx(dx);
      const Array<uint32_t> d_ids(ids);
      cuda::EmbeddingForward(Stream(), d_matrix.data(), d_ids.data(), tokens, width, x.data());
      std::vector<float> expected;
      for (const uint32_t id : ids) {
        expected.insert(expected.end(), &matrix[id * width], &matrix[id * width] + width);
      }
      Expect(x.Get() == expected, "rows of width %zu", width);

      std::vector<uint32_t> begin, positions;
      std::vector<float> sums;
      for (uint32_t id = 0; id < vocabulary; ++id) {
        std::vector<float> sum(width, 0.0f);
        const size_t first = positions.size();
        for (uint32_t t = 0; t < tokens; ++t) {
          if (ids[t] != id) continue;
          positions.push_back(t);
          for (size_t i = 0; i < width; ++i) sum[i] += dx[t * width + i];
        }
        if (positions.size() == first) continue;
        begin.push_back(static_cast<uint32_t>(first));
        sums.insert(sums.end(), sum.begin(), sum.end());
      }
      const size_t distinct = begin.size();
      begin.push_back(static_cast<uint32_t>(tokens));
      const Array<uint32_t> d_begin(begin), d_positions(positions);
      const Array<float> gradient(distinct * width);
      cuda::EmbeddingBackward(Stream(), {distinct, d_begin.data(), d_positions.data()}, d_dx.data(),
                              width, gradient.data());
      Expect(gradient.Get() == sums, "sums in token order, width %zu", width);
    }
  }
}

GPU_TEST(BiasAndResidual) {
  for (const size_t width : {1, 33, 256}) {
    const size_t rows = 19;
    const std::vector<float> a = RandomNormals(rows * width), b = RandomNormals(rows * width);
    const std::vector<float> bias = RandomNormals(width);
    std::vector<float> with_bias(rows * width), sum(rows * width), both(rows * width);
    for (size_t i = 0; i < a.size(); ++i) {
      with_bias[i] = a[i] + bias[i % width];
      sum[i] = a[i] + b[i];
      both[i] = a[i] + b[i] + bias[i % width];
    }
    const Array<float> d_a(a), d_b(b), d_bias(bias), y(a), out(rows * width);
    cuda::AddBias(Stream(), d_bias.data(), rows, width, y.data());
    Expect(y.Get() == with_bias, "bias, width %zu", width);
    cuda::AddRows(Stream(), d_a.data(), d_b.data(), nullptr, rows, width, out.data());
    Expect(out.Get() == sum, "residual, width %zu", width);
    cuda::AddRows(Stream(), d_a.data(), d_b.data(), d_bias.data(), rows, width, d_b.data());
    Expect(d_b.Get() == both, "residual in place, width %zu", width);
  }
}

GPU_TEST(Rotary) {
  for (const size_t head_dim : {2, 12, 33, 64}) {
    const size_t heads = 3, length = 7, rows = 14, width = heads * head_dim + 5;
    const size_t pairs = head_dim / 3;
    const std::vector<float> cosines = RandomNormals(length * pairs);
    const std::vector<float> sines = RandomNormals(length * pairs);
    const std::vector<float> x = RandomNormals(rows * width), bias = RandomNormals(width);
    const auto rotated = [&](double direction, bool with_bias) {
      std::vector<double> y(x.begin(), x.end());
      for (size_t i = 0; with_bias && i < y.size(); ++i) {
        y[i] += static_cast<double>(bias[i % width]);
      }
      for (size_t row = 0; row < rows; ++row) {
        for (size_t head = 0; head < heads; ++head) {
          for (size_t i = 0; i < pairs; ++i) {
            double& first = y[row * width + head * head_dim + i];
            double& second = y[row * width + head * head_dim + pairs + i];
            const double c = static_cast<double>(cosines[row % length * pairs + i]);
            const double s = direction * static_cast<double>(sines[row % length * pairs + i]);
            const double a = first;
            first = a * c - second * s;
            second = second * c + a * s;
          }
        }
      }
      return y;
    };
    const Array<float> d_cosines(cosines), d_sines(sines), d_bias(bias), forward(x), back(x);
    const cuda::RotaryTables rotary{pairs, head_dim, d_cosines.data(), d_sines.data()};
    cuda::AddBiasAndRotate(Stream(), rotary, heads, length, d_bias.data(), rows, width,
                           forward.data());
    cuda::RotateBack(Stream(), rotary, heads, length, rows, width, back.data());
    Expect(Error(forward.Get(), rotated(1, true)) < 4, "forward, heads of %zu", head_dim);
    Expect(Error(back.Get(), rotated(-1, false)) < 4, "back, heads of %zu", head_dim);
  }
}

GPU_TEST(Gelu) {
  std::vector<float> x = RandomNormals(1000, 3);
  x.insert(x.end(), {0.0f, -0.0f, 1e-6f, -1e-6f, 10.0f, -10.0f, 100.0f, -100.0f});
  const std::vector<float> dy = RandomNormals(x.size());
  const oracle::Matrix wide(1, x.size(), Wide(x)), wide_dy(1, x.size(), Wide(dy));
  const Array<float> d_x(x), y(x.size()), dx(dy);
  cuda::Gelu(Stream(), d_x.data(), x.size(), y.data());
  cuda::GeluBackward(Stream(), d_x.data(), dx.data(), x.size(), dx.data());  // in place
  Expect(Error(y.Get(), oracle::Gelu(wide).values) < 4, "gelu");
  Expect(Error(dx.Get(), oracle::GeluBackward(wide, wide_dy).values) < 8, "gelu backward");
}

}  // namespace mf::gpu_test
