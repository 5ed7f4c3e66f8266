// Optimizer steps over a row. Which operations are fused is part of the result, so it is written
// out:
//   m' = (1 - b1) * g (+) b1 * m            v' = ((1 - b2) * g) * g (+) b2 * v
//   w' = w * decay (-) rate * (m' / (sqrt(v') * c (+) eps))
// (+) and (-) end a fused multiply-add. decay = 1 - lr * wd, rate = lr / (1 - b1^step) and
// c = 1 / sqrt(1 - b2^step) are computed in double and rounded once. sqrt and / are IEEE, so a
// lane's result depends on nothing but the lane.
#include "pserver/kernels/optimizer.h"

#include <algorithm>
#include <cmath>

#include "common/check.h"

// The order of these matters: targets, then this file once per target.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "pserver/kernels/optimizer.cpp"
#include "common/kernels/targets-inl.h"
#include "hwy/foreach_target.h"
#include "common/kernels/simd-inl.h"
// clang-format on

#ifndef MF_PSERVER_KERNELS_OPTIMIZER_ONCE_
#define MF_PSERVER_KERNELS_OPTIMIZER_ONCE_
namespace mf {
namespace {

constexpr size_t kCatchUpMax = 256;

/// What does not change with the step.
struct AdamConstants {
  float beta1, one_minus_beta1, beta2, one_minus_beta2, eps;
};

/// What does.
struct AdamScalars {
  float decay;         // 1 - lr * weight decay
  float rate;          // lr / (1 - beta1^step)
  float inverse_root;  // 1 / sqrt(1 - beta2^step)
};

}  // namespace
}  // namespace mf
#endif

HWY_BEFORE_NAMESPACE();
namespace mf {
namespace HWY_NAMESPACE {
namespace {

struct AdamVectors {
  V32 beta1, one_minus_beta1, beta2, one_minus_beta2, eps;
  HWY_INLINE explicit AdamVectors(const AdamConstants& c)
      : beta1(hn::Set(F32(), c.beta1)),
        one_minus_beta1(hn::Set(F32(), c.one_minus_beta1)),
        beta2(hn::Set(F32(), c.beta2)),
        one_minus_beta2(hn::Set(F32(), c.one_minus_beta2)),
        eps(hn::Set(F32(), c.eps)) {}
};

/// w' from finished m' and v'.
HWY_INLINE V32 Move(const AdamVectors& constants, const AdamScalars& step, V32 w, V32 m, V32 v) {
  const V32 denominator = Fma(hn::Sqrt(v), hn::Set(F32(), step.inverse_root), constants.eps);
  return FmaNegated(hn::Set(F32(), step.rate), hn::Div(m, denominator),
                    hn::Mul(w, hn::Set(F32(), step.decay)));
}

void Adam(const AdamConstants& settings, const AdamScalars& step, float gradient_scale,
          const float* gradient, float* w, float* m, float* v, size_t count) {
  const AdamVectors constants(settings);
  const V32 scale = hn::Set(F32(), gradient_scale);
  for (size_t i = 0; i < count; i += kLanes) {
    const V32 g = hn::Mul(hn::LoadU(F32(), gradient + i), scale);
    const V32 new_m =
        Fma(constants.one_minus_beta1, g, hn::Mul(constants.beta1, hn::LoadU(F32(), m + i)));
    const V32 new_v = Fma(hn::Mul(constants.one_minus_beta2, g), g,
                          hn::Mul(constants.beta2, hn::LoadU(F32(), v + i)));
    hn::StoreU(new_m, F32(), m + i);
    hn::StoreU(new_v, F32(), v + i);
    hn::StoreU(Move(constants, step, hn::LoadU(F32(), w + i), new_m, new_v), F32(), w + i);
  }
}

/// The same with a gradient of zero, steps inside: a fused multiply-add with a product of +0 is an
/// addition of +0 (which is not nothing: it turns -0 into +0).
void CatchUp(const AdamConstants& settings, const AdamScalars* steps, size_t step_count,
             float rest_w, float rest_m, float rest_v, float* w, float* m, float* v, size_t count) {
  constexpr size_t kUnroll = kStep / kLanes < 2 ? 2 : kStep / kLanes;
  const AdamVectors constants(settings);
  const V32 zero = hn::Zero(F32());
  const auto run = [&](size_t i, size_t vectors) HWY_ATTR {
    V32 ws[kUnroll], ms[kUnroll], vs[kUnroll];
    for (size_t u = 0; u < vectors; ++u) {
      ws[u] = hn::LoadU(F32(), w + i + u * kLanes);
      ms[u] = hn::LoadU(F32(), m + i + u * kLanes);
      vs[u] = hn::LoadU(F32(), v + i + u * kLanes);
    }
    for (size_t s = 0; s < step_count; ++s) {
      for (size_t u = 0; u < vectors; ++u) {
        ms[u] = hn::Add(hn::Mul(constants.beta1, ms[u]), zero);
        vs[u] = hn::Add(hn::Mul(constants.beta2, vs[u]), zero);
        ws[u] = Move(constants, steps[s], ws[u], ms[u], vs[u]);
      }
    }
    for (size_t u = 0; u < vectors; ++u) {
      hn::StoreU(hn::Mul(ws[u], hn::Set(F32(), rest_w)), F32(), w + i + u * kLanes);
      hn::StoreU(hn::Mul(ms[u], hn::Set(F32(), rest_m)), F32(), m + i + u * kLanes);
      hn::StoreU(hn::Mul(vs[u], hn::Set(F32(), rest_v)), F32(), v + i + u * kLanes);
    }
  };
  size_t i = 0;
  for (; i + kUnroll * kLanes <= count; i += kUnroll * kLanes) run(i, kUnroll);
  for (; i < count; i += kLanes) run(i, 1);
}

void Sgd(float decay, float rate, float gradient_scale, const float* gradient, float* w,
         size_t count) {
  for (size_t i = 0; i < count; i += kLanes) {
    const V32 g = hn::Mul(hn::LoadU(F32(), gradient + i), hn::Set(F32(), gradient_scale));
    const V32 decayed = hn::Mul(hn::LoadU(F32(), w + i), hn::Set(F32(), decay));
    hn::StoreU(FmaNegated(hn::Set(F32(), rate), g, decayed), F32(), w + i);
  }
}

void Scale(float* dst, const float* src, float factor, size_t count) {
  for (size_t i = 0; i < count; i += kLanes) {
    hn::StoreU(hn::Mul(hn::LoadU(F32(), src + i), hn::Set(F32(), factor)), F32(), dst + i);
  }
}

/// A square of a float is exact in double, so fused or not makes no difference here.
void SumSquares(double* lanes, const float* values, size_t count) {
  using F64 = hn::CappedTag<double, 8>;
  constexpr size_t kWide = hn::MaxLanes(F64());
  constexpr size_t kParts = 8 / kWide;
  const hn::Rebind<float, F64> narrow;
  hn::Vec<F64> sums[kParts];
  for (size_t p = 0; p < kParts; ++p) sums[p] = hn::LoadU(F64(), lanes + p * kWide);
  for (size_t i = 0; i < count; i += 8) {
    for (size_t p = 0; p < kParts; ++p) {
      const auto x = hn::PromoteTo(F64(), hn::LoadU(narrow, values + i + p * kWide));
      sums[p] = hn::Add(sums[p], hn::Mul(x, x));
    }
  }
  for (size_t p = 0; p < kParts; ++p) hn::StoreU(sums[p], F64(), lanes + p * kWide);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace mf
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mf {
HWY_EXPORT(Adam);
HWY_EXPORT(CatchUp);
HWY_EXPORT(Sgd);
HWY_EXPORT(Scale);
HWY_EXPORT(SumSquares);

namespace {

/// 1 - beta1^step and 1 / sqrt(1 - beta2^step).
struct BiasCorrection {
  uint64_t step = 0;
  double beta1 = 0, beta2 = 0;
  double first = 0, inverse_root = 0;
};

/// Rows that catch up do so over the same last few hundred steps, and a power costs as much as a
/// step of 64 columns: each thread keeps the last ones it computed.
const BiasCorrection& CorrectionAt(const AdamSettings& settings, uint64_t step) {
  constexpr size_t kKept = 512;
  static thread_local BiasCorrection kept[kKept];
  BiasCorrection& entry = kept[step % kKept];
  if (entry.step != step || entry.beta1 != settings.beta1 || entry.beta2 != settings.beta2) {
    const double exponent = static_cast<double>(step);
    entry = {step, settings.beta1, settings.beta2, 1 - std::pow(settings.beta1, exponent),
             1 / std::sqrt(1 - std::pow(settings.beta2, exponent))};
  }
  return entry;
}

AdamScalars ScalarsAt(const AdamSettings& settings, double lr, double decay, uint64_t step) {
  const BiasCorrection& correction = CorrectionAt(settings, step);
  return {static_cast<float>(1 - lr * decay), static_cast<float>(lr / correction.first),
          static_cast<float>(correction.inverse_root)};
}

AdamConstants ConstantsOf(const AdamSettings& settings) {
  return {static_cast<float>(settings.beta1), static_cast<float>(1 - settings.beta1),
          static_cast<float>(settings.beta2), static_cast<float>(1 - settings.beta2),
          static_cast<float>(settings.eps)};
}

}  // namespace

void AdamStep(const AdamSettings& settings, double lr, double decay, uint64_t step,
              float gradient_scale, const float* gradient, float* w, float* m, float* v,
              size_t count) {
  HWY_DYNAMIC_DISPATCH(Adam)
  (ConstantsOf(settings), ScalarsAt(settings, lr, decay, step), gradient_scale, gradient, w, m, v,
   count);
}

void AdamCatchUp(const AdamSettings& settings, std::span<const float> lr, double decay,
                 uint64_t from, double rest_decay, uint64_t rest_steps, float* w, float* m,
                 float* v, size_t count) {
  MF_CHECK(lr.size() <= kCatchUpMax);
  AdamScalars steps[kCatchUpMax];
  for (size_t i = 0; i < lr.size(); ++i) {
    steps[i] = ScalarsAt(settings, double{lr[i]}, decay, from + 1 + i);
  }
  const double rest = static_cast<double>(rest_steps);
  HWY_DYNAMIC_DISPATCH(CatchUp)
  (ConstantsOf(settings), steps, lr.size(), static_cast<float>(rest_decay),
   static_cast<float>(std::pow(settings.beta1, rest)),
   static_cast<float>(std::pow(settings.beta2, rest)), w, m, v, count);
}

void SgdStep(double lr, double decay, float gradient_scale, const float* gradient, float* w,
             size_t count) {
  HWY_DYNAMIC_DISPATCH(Sgd)
  (static_cast<float>(1 - lr * decay), static_cast<float>(lr), gradient_scale, gradient, w, count);
}

void ScaleInto(float* dst, const float* src, float factor, size_t count) {
  HWY_DYNAMIC_DISPATCH(Scale)(dst, src, factor, count);
}

double SquareSum::Total() const {
  double total = 0;
  for (const double part : lane) total += part;
  return total;
}

void AddSquares(SquareSum& sum, const float* values, size_t count) {
  HWY_DYNAMIC_DISPATCH(SumSquares)(sum.lane, values, count);
}

}  // namespace mf
#endif
