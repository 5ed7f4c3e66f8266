#include "worker/compute/cpu/norm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "worker/compute/cpu/norm.cpp"
#include <algorithm>
#include <cmath>

#include "hwy/foreach_target.h"  // IWYU pragma: keep; includes this file once per instruction set
#include "worker/compute/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mf::HWY_NAMESPACE {
namespace {

struct RowStatistics {
  float mean;  // 0 for RMSNorm
  float rstd;  // 1 / sqrt(mean of squares about `mean` + eps)
};

/// The sum over i of term(vector i of x), zeros beyond the end kept out. Four sums at once: one
/// alone waits for each addition.
template <class Term>
HWY_INLINE float SumOf(const float* x, size_t width, const Term& term) {
  const Floats d;
  const size_t lanes = hn::Lanes(d);
  Vector sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  size_t i = 0;
  for (; i + 4 * lanes <= width; i += 4 * lanes) {
    sums[0] = term(hn::LoadU(d, x + i), sums[0]);
    sums[1] = term(hn::LoadU(d, x + i + lanes), sums[1]);
    sums[2] = term(hn::LoadU(d, x + i + 2 * lanes), sums[2]);
    sums[3] = term(hn::LoadU(d, x + i + 3 * lanes), sums[3]);
  }
  for (; i + lanes <= width; i += lanes) sums[0] = term(hn::LoadU(d, x + i), sums[0]);
  if (i < width) {
    const size_t part = std::min(lanes, width - i);
    const Vector last = term(LoadPart(d, x + i, part), hn::Zero(d));
    sums[1] = hn::Add(sums[1], hn::IfThenElseZero(hn::FirstN(d, part), last));
  }
  return SumLanes(d, hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3])));
}

RowStatistics Statistics(NormKind kind, const float* x, size_t width) {
  const float inverse_width = 1.0f / static_cast<float>(width);
  float mean = 0;
  if (kind == NormKind::kLayerNorm) {
    mean = inverse_width *
           SumOf(x, width, [](Vector v, Vector sum) HWY_ATTR { return hn::Add(sum, v); });
  }
  const Vector center = hn::Set(Floats(), mean);
  const float squares = SumOf(x, width, [center](Vector v, Vector sum) HWY_ATTR {
    const Vector from_mean = hn::Sub(v, center);
    return hn::MulAdd(from_mean, from_mean, sum);
  });
  return {mean, 1.0f / std::sqrt(squares * inverse_width + kNormEps)};
}

void Forward(const NormParameters& norm, const float* x, size_t rows, float* y) {
  const Floats d;
  const size_t lanes = hn::Lanes(d);
  for (size_t row = 0; row < rows; ++row, x += norm.width, y += norm.width) {
    const RowStatistics row_stats = Statistics(norm.kind, x, norm.width);
    const Vector mean = hn::Set(d, row_stats.mean);
    const Vector rstd = hn::Set(d, row_stats.rstd);
    for (size_t i = 0; i < norm.width; i += lanes) {
      const size_t count = std::min(lanes, norm.width - i);
      const Vector xhat = hn::Mul(hn::Sub(LoadPart(d, x + i, count), mean), rstd);
      Vector out = hn::Mul(xhat, LoadPart(d, norm.gain + i, count));
      if (norm.bias) out = hn::Add(out, LoadPart(d, norm.bias + i, count));
      StorePart(d, out, y + i, count);
    }
  }
}

/// With g = gain * dy and xhat = (x - mean) * rstd:
/// dx = rstd * (g - xhat * mean(g * xhat) - mean(g)), the last term for LayerNorm only.
void BackwardRow(const NormParameters& norm, const float* x, const float* dy, const float* residual,
                 const NormGradients& out, float* dx) {
  const Floats d;
  const size_t lanes = hn::Lanes(d);
  const RowStatistics row_stats = Statistics(norm.kind, x, norm.width);
  const Vector mean = hn::Set(d, row_stats.mean);
  const Vector rstd = hn::Set(d, row_stats.rstd);
  Vector sum_g = hn::Zero(d);
  Vector sum_gx = hn::Zero(d);
  for (size_t i = 0; i < norm.width; i += lanes) {
    const size_t count = std::min(lanes, norm.width - i);
    const Vector xhat = hn::Mul(hn::Sub(LoadPart(d, x + i, count), mean), rstd);
    const Vector dyv = LoadPart(d, dy + i, count);  // zero beyond a tail: nothing is added there
    const Vector g = hn::Mul(dyv, LoadPart(d, norm.gain + i, count));
    sum_g = hn::Add(sum_g, g);
    sum_gx = hn::MulAdd(g, xhat, sum_gx);
    StorePart(d, hn::MulAdd(dyv, xhat, LoadPart(d, out.dgain + i, count)), out.dgain + i, count);
    if (out.dbias) {
      StorePart(d, hn::Add(dyv, LoadPart(d, out.dbias + i, count)), out.dbias + i, count);
    }
  }
  const float inverse_width = 1.0f / static_cast<float>(norm.width);
  const Vector mean_gx = hn::Set(d, SumLanes(d, sum_gx) * inverse_width);
  const Vector mean_g =
      hn::Set(d, norm.kind == NormKind::kLayerNorm ? SumLanes(d, sum_g) * inverse_width : 0.0f);
  for (size_t i = 0; i < norm.width; i += lanes) {
    const size_t count = std::min(lanes, norm.width - i);
    const Vector xhat = hn::Mul(hn::Sub(LoadPart(d, x + i, count), mean), rstd);
    const Vector g = hn::Mul(LoadPart(d, dy + i, count), LoadPart(d, norm.gain + i, count));
    Vector value = hn::Mul(rstd, hn::Sub(hn::NegMulAdd(xhat, mean_gx, g), mean_g));
    if (residual) value = hn::Add(value, LoadPart(d, residual + i, count));
    StorePart(d, value, dx + i, count);
  }
}

void Backward(const NormParameters& norm, const float* x, const float* dy, size_t rows,
              const NormGradients& out) {
  std::fill_n(out.dgain, norm.width, 0.0f);
  if (out.dbias) std::fill_n(out.dbias, norm.width, 0.0f);
  for (size_t row = 0; row < rows; ++row) {
    const size_t at = row * norm.width;
    BackwardRow(norm, x + at, dy + at, out.residual ? out.residual + at : nullptr, out,
                out.dx + at);
  }
}

}  // namespace
}  // namespace mf::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mf {
HWY_EXPORT(Forward);
HWY_EXPORT(Backward);

void NormRows(const NormParameters& norm, const float* x, size_t rows, float* y) {
  HWY_DYNAMIC_DISPATCH(Forward)(norm, x, rows, y);
}

void NormBackwardRows(const NormParameters& norm, const float* x, const float* dy, size_t rows,
                      const NormGradients& out) {
  HWY_DYNAMIC_DISPATCH(Backward)(norm, x, dy, rows, out);
}

}  // namespace mf
#endif  // HWY_ONCE
