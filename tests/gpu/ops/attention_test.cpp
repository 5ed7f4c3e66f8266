#include "worker/compute/cuda/kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "tests/gpu/ops/harness.h"
#include "tests/support/oracle/oracle_ops.h"

namespace mf::gpu_test {
namespace {

struct Inputs {
  explicit Inputs(const AttentionShape& s, double spread = 1)
      : shape(s),
        qkv(RandomNormals(s.tokens() * 3 * s.width(), spread)),
        dout(RandomNormals(s.tokens() * s.width())) {}

  oracle::Matrix WideQkv() const { return {shape.tokens(), 3 * shape.width(), Wide(qkv)}; }
  oracle::Matrix WideDout() const { return {shape.tokens(), shape.width(), Wide(dout)}; }
  /// The oracle's options: nothing is rotated, as queries and keys are rotated already.
  oracle::AttentionOptions Options() const {
    return {shape.sequences, shape.length, shape.heads, 0};
  }

  AttentionShape shape;
  std::vector<float> qkv;
  std::vector<float> dout;
};

struct Outputs {
  std::vector<float> out;
  std::vector<float> log_sums;
  std::vector<float> dqkv;
};

std::vector<float> Shifted(const std::vector<float>& x, size_t shift) {
  std::vector<float> out(shift, 0.0f);
  out.insert(out.end(), x.begin(), x.end());
  return out;
}

/// Both passes. With a `shift` no array but the small ones begins at a multiple of 16 bytes.
Outputs Run(const Inputs& in, size_t shift = 0) {
  const size_t rows = in.shape.tokens() * in.shape.heads;
  const Array<float> qkv(Shifted(in.qkv, shift));
  const Array<float> dout(Shifted(in.dout, shift));
  const Array<float> out(in.dout.size() + shift);
  const Array<float> dqkv(in.qkv.size() + shift);
  const Array<float> log_sums(rows);
  const Array<float> products(rows);
  cuda::AttentionForward(Stream(), in.shape, qkv.data() + shift, out.data() + shift,
                         log_sums.data());
  cuda::AttentionBackward(
      Stream(), in.shape, {qkv.data() + shift, out.data() + shift, log_sums.data()},
      {.dout = dout.data() + shift, .products = products.data(), .dqkv = dqkv.data() + shift});
  Outputs got{out.Get(), log_sums.Get(), dqkv.Get()};
  got.out.erase(got.out.begin(), got.out.begin() + static_cast<std::ptrdiff_t>(shift));
  got.dqkv.erase(got.dqkv.begin(), got.dqkv.begin() + static_cast<std::ptrdiff_t>(shift));
  return got;
}

struct LogSums {
  std::vector<double> values;  // [tokens][heads]
  /// The largest sum of |query * key| of a score: what its rounding errors are relative to.
  double largest_terms = 0;
};

LogSums ExpectedLogSums(const Inputs& in) {
  const AttentionShape& s = in.shape;
  const oracle::Matrix x = in.WideQkv();
  const size_t d = s.width();
  const double scale = 1 / std::sqrt(static_cast<double>(s.head_dim));
  LogSums expected;
  for (size_t token = 0; token < s.tokens(); ++token) {
    for (size_t column = 0; column < d; column += s.head_dim) {
      std::vector<double> scores;
      for (size_t key = token - token % s.length; key <= token; ++key) {
        double score = 0;
        double terms = 0;
        for (size_t i = column; i < column + s.head_dim; ++i) {
          const double term = x.at(token, i) * x.at(key, d + i) * scale;
          score += term;
          terms += std::abs(term);
        }
        scores.push_back(score);
        expected.largest_terms = std::max(expected.largest_terms, terms);
      }
      const double maximum = *std::max_element(scores.begin(), scores.end());
      double sum = 0;
      for (const double score : scores) sum += std::exp(score - maximum);
      expected.values.push_back(maximum + std::log(sum));
    }
  }
  return expected;
}

/// Columns [part * width, (part + 1) * width) of [..][3 * width]: queries, keys or values.
template <class T>
std::vector<T> Part(const std::vector<T>& x, size_t width, size_t part) {
  std::vector<T> out;
  for (size_t i = 0; i < x.size(); ++i) {
    if (i / width % 3 == part) out.push_back(x[i]);
  }
  return out;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::string Text(const AttentionShape& s) {
  return std::to_string(s.sequences) + " sequences of " + std::to_string(s.length) + ", " +
         std::to_string(s.heads) + " heads of " + std::to_string(s.head_dim);
}

/// What may be wrong, in float epsilons. A score is wrong by epsilons of the terms it is a sum of,
/// and so, absolutely, is a log sum; a power is as wrong, relatively, as its exponent is
/// absolutely. Outputs and gradients are relative to the largest number of their kind. Tensor cores
/// round every input to 11 bits, which is wrong by up to 2^-11 of it = 4096 epsilons, instead of by
/// half a one. The factors are two to three times the worst of 500 cases of either kind (TF32
/// imitated on a CPU).
struct Tolerances {
  explicit Tolerances(double largest_terms) {
    const double unit = (RoundsToTf32() ? 4096 : 1) * (1 + largest_terms);
    out = 2 * unit;
    log_sums = 3 * unit;
    gradient = 4 * unit;
  }
  double out;
  double log_sums;
  double gradient;
};

double Largest(const std::vector<double>& x) {
  double largest = 0;
  for (const double value : x) largest = std::max(largest, std::abs(value));
  return largest;
}

void CheckAgainstOracle(const Inputs& in) {
  const std::string text = Text(in.shape);
  const Outputs got = Run(in);
  const LogSums log_sums = ExpectedLogSums(in);
  const Tolerances allowed(log_sums.largest_terms);

  const double out = Error(got.out, oracle::Attention(in.Options(), in.WideQkv()).values);
  Expect(out < allowed.out, "%s: out is wrong by %g eps of %g", text.c_str(), out, allowed.out);
  const double sums = Error(got.log_sums, log_sums.values) * Largest(log_sums.values);
  Expect(sums < allowed.log_sums, "%s: log sums are wrong by %g eps of %g", text.c_str(), sums,
         allowed.log_sums);

  const std::vector<double> dqkv =
      oracle::AttentionBackward(in.Options(), in.WideQkv(), in.WideDout()).values;
  // Gradients of scores are differences, next to nothing for a query that sees few keys, so errors
  // of all parts are relative to the largest number of any.
  const double largest = Largest(dqkv);
  for (size_t part = 0; part < 3; ++part) {
    std::vector<double> expected = Part(dqkv, in.shape.width(), part);
    std::vector<float> values = Part(got.dqkv, in.shape.width(), part);
    expected.push_back(largest);
    values.push_back(static_cast<float>(largest));
    const double error = Error(values, expected);
    Expect(error < allowed.gradient, "%s: d%c is wrong by %g eps of %g", text.c_str(), "qkv"[part],
           error, allowed.gradient);
  }

  const Outputs again = Run(in);
  Expect(SameBits(got.out, again.out) && SameBits(got.log_sums, again.log_sums) &&
             SameBits(got.dqkv, again.dqkv),
         "%s: other bits on a second run", text.c_str());
}

bool Finite(double x) { return std::isfinite(x); }

/// Numbers that are not finite must be exactly where the formulas have them.
void ExpectSameFinite(const std::vector<float>& got, const std::vector<double>& expected,
                      const std::string& what) {
  size_t lost = 0;
  size_t strayed = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    lost += Finite(got[i]) && !Finite(expected[i]);
    strayed += !Finite(got[i]) && Finite(expected[i]);
  }
  Expect(lost == 0 && strayed == 0, "%s: %zu not finite numbers were lost, %zu strayed",
         what.c_str(), lost, strayed);
}

}  // namespace

GPU_TEST(AttentionAgainstOracle) {
  for (const AttentionShape& shape : std::vector<AttentionShape>{{2, 1, 1, 1},
                                                                 {3, 2, 2, 6},
                                                                 {1, 1, 3, 64},
                                                                 {2, 63, 1, 12},
                                                                 {1, 64, 2, 16},
                                                                 {1, 65, 3, 20},
                                                                 {2, 130, 2, 32},
                                                                 {1, 200, 1, 64},
                                                                 {2, 64, 1, 62},
                                                                 {1, 65, 2, 80},
                                                                 {1, 130, 1, 128},
                                                                 {1, 200, 1, 3}}) {
    CheckAgainstOracle(Inputs(shape));
  }
  // Maxima that grow from tile to tile by much: sums are rescaled.
  Inputs growing({1, 200, 1, 32}, 2);
  for (size_t i = 0; i < growing.qkv.size(); ++i) {
    const size_t token = i / (3 * growing.shape.width());
    growing.qkv[i] *= 0.5f + static_cast<float>(token) / 100.0f;
  }
  CheckAgainstOracle(growing);
}

GPU_TEST(AttentionEmpty) {
  Run(Inputs({0, 5, 2, 16}));
  Run(Inputs({2, 0, 2, 16}));
}

GPU_TEST(AttentionTooWide) {
  bool thrown = false;
  try {
    Run(Inputs({1, 2, 1, cuda::kMaxHeadDim + 1}));
  } catch (const cuda::CudaError&) {
    thrown = true;
  }
  Expect(thrown, "a head_dim without a kernel is no error");
}

/// Rows that cannot be read by 16 bytes, though the shape would allow it.
GPU_TEST(AttentionUnaligned) {
  const Inputs in({2, 37, 2, 24});
  const Outputs aligned = Run(in);
  for (const size_t shift : {1, 2, 3}) {
    const Outputs shifted = Run(in, shift);
    Expect(SameBits(aligned.out, shifted.out) && SameBits(aligned.log_sums, shifted.log_sums) &&
               SameBits(aligned.dqkv, shifted.dqkv),
           "other bits %zu floats further", shift);
  }
}

/// What a query does not see does not change a bit of what belongs to it.
GPU_TEST(AttentionIsCausal) {
  for (const AttentionShape& shape :
       std::vector<AttentionShape>{{2, 150, 2, 12}, {2, 90, 1, 64}, {1, 100, 1, 100}}) {
    const std::string text = Text(shape);
    const size_t d = shape.width();
    const Inputs in(shape);
    const Outputs before = Run(in);
    const size_t token = 1 + Random()() % (shape.length - 1);  // of the first sequence
    const auto in_first = [&](size_t row) { return row < shape.length; };

    Inputs other_key = in;
    for (size_t i = d; i < 3 * d; ++i) other_key.qkv[token * 3 * d + i] += 1;
    const Outputs after = Run(other_key);
    size_t changed = 0;
    size_t changed_unseeing = 0;
    for (size_t i = 0; i < after.out.size(); ++i) {
      const bool differs = std::memcmp(&after.out[i], &before.out[i], sizeof(float)) != 0;
      const bool sees = in_first(i / d) && i / d >= token;
      (sees ? changed : changed_unseeing) += differs;
    }
    for (size_t i = 0; i < after.log_sums.size(); ++i) {
      const size_t row = i / shape.heads;
      changed_unseeing +=
          after.log_sums[i] != before.log_sums[i] && !(in_first(row) && row >= token);
    }
    Expect(changed_unseeing == 0, "%s: %zu outputs know of key %zu too early", text.c_str(),
           changed_unseeing, token);
    Expect(changed > (shape.length - token) * d * 3 / 4, "%s: key %zu changes %zu outputs only",
           text.c_str(), token, changed);

    Inputs other_dout = in;
    for (size_t i = 0; i < d; ++i) other_dout.dout[token * d + i] += 1;
    const std::vector<float> dqkv = Run(other_dout).dqkv;
    size_t reached = 0;
    size_t strayed = 0;
    for (size_t i = 0; i < dqkv.size(); ++i) {
      const size_t row = i / (3 * d);
      const bool is_query = i % (3 * d) < d;
      const bool depends = in_first(row) && (is_query ? row == token : row <= token);
      const bool differs = std::memcmp(&dqkv[i], &before.dqkv[i], sizeof(float)) != 0;
      (depends ? reached : strayed) += differs;
    }
    Expect(strayed == 0, "%s: %zu gradients know of query %zu and should not", text.c_str(),
           strayed, token);
    Expect(reached > token * d, "%s: query %zu changes %zu gradients only", text.c_str(), token,
           reached);
  }
}

void CheckNotFinite(const Inputs& in, const std::string& text) {
  const Outputs got = Run(in);
  const oracle::Matrix qkv = in.WideQkv();
  ExpectSameFinite(got.out, oracle::Attention(in.Options(), qkv).values, text + ": out");
  ExpectSameFinite(got.log_sums, ExpectedLogSums(in).values, text + ": log sums");
  ExpectSameFinite(got.dqkv, oracle::AttentionBackward(in.Options(), qkv, in.WideDout()).values,
                   text + ": dqkv");
}

/// One number that is not finite, in queries, keys, values or gradients.
GPU_TEST(AttentionNotFinite) {
  for (const AttentionShape& shape : std::vector<AttentionShape>{{2, 70, 2, 20}, {1, 90, 1, 70}}) {
    const size_t d = shape.width();
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      for (size_t part = 0; part < 4; ++part) {
        Inputs in(shape);
        const size_t token = Random()() % shape.tokens();
        const size_t column = Random()() % d;
        if (part < 3) in.qkv[token * 3 * d + part * d + column] = bad;
        if (part == 3) in.dout[token * d + column] = bad;
        CheckNotFinite(in, Text(shape) + ": " + std::to_string(bad) + " in " + "qkvo"[part] +
                               " of token " + std::to_string(token));
      }
    }
  }
}

/// Scores of minus infinity are keys that do not count. A key that no query counts harms nothing,
/// not even by the queries that a tile has beyond the sequence's end; neither does a whole tile of
/// them, to the queries that have others.
GPU_TEST(AttentionMinusInfinity) {
  const AttentionShape shape{2, 90, 1, 20};
  const size_t d = shape.width();
  struct Keys {
    size_t begin, end;
  };
  for (const Keys& keys : std::vector<Keys>{{shape.length - 1, shape.length}, {0, 1}, {0, 64}}) {
    Inputs in(shape);
    for (size_t t = 0; t < shape.length; ++t) in.qkv[t * 3 * d] = 1 + std::abs(in.qkv[t * 3 * d]);
    for (size_t t = keys.begin; t < keys.end; ++t) {
      in.qkv[t * 3 * d + d] = -std::numeric_limits<float>::infinity();
    }
    CheckNotFinite(in, "keys from " + std::to_string(keys.begin) + " to before " +
                           std::to_string(keys.end) + " do not count");
  }
}

}  // namespace mf::gpu_test
