// Which operations are fused is part of the result, so it is written out:
//   m' = (1 - b1) * g (+) b1 * m            v' = ((1 - b2) * g) * g (+) b2 * v
//   w' = w * decay (-) rate * (m' / (sqrt(v') * c (+) eps))
// (+) and (-) end a fused multiply-add. decay = 1 - lr * wd, rate = lr / (1 - b1^step) and
// c = 1 / sqrt(1 - b2^step) are computed in double and rounded once. sqrt and / are IEEE, so a
// lane's result depends on nothing but the lane.
#include "pserver/table/optimizers/adam.h"

#include <algorithm>
#include <cmath>

#include "common/base/check.h"
#include "pserver/table/optimizers/rule.h"

// The order of these matters: targets, then this file once per target.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "pserver/table/optimizers/adam.cpp"
#include "common/kernels/targets-inl.h"
#include "hwy/foreach_target.h"
#include "common/kernels/simd-inl.h"
#include "pserver/table/kernels/weights-inl.h"
// clang-format on

#ifndef MF_PSERVER_OPTIMIZERS_ADAM_ONCE_
#define MF_PSERVER_OPTIMIZERS_ADAM_ONCE_
namespace mf {
namespace {

// Zero-gradient steps taken one by one; after these m is below beta1^256 = 1e-12 of what it was
// (DESIGN 3: the cap errs by 1e-11).
constexpr uint64_t kCatchUpMax = 256;

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

template <class Weights>
HWY_INLINE void AdamRow(const AdamConstants& settings, const AdamScalars& step,
                        float gradient_scale, const float* gradient, const Weights& w, float* m,
                        float* v, size_t count) {
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
    w.Store(Move(constants, step, w.Load(i), new_m, new_v), i);
  }
}

void Adam(const AdamConstants& settings, const AdamScalars& step, float gradient_scale,
          const float* gradient, const WeightRow& row, float* m, float* v, size_t count) {
  WithWeights(row, [&](const auto& w) HWY_ATTR {
    AdamRow(settings, step, gradient_scale, gradient, w, m, v, count);
  });
}

/// The same where all columns have one v, which is finished.
template <class Weights>
HWY_INLINE void AdamSharedRow(const AdamConstants& settings, const AdamScalars& step,
                              float gradient_scale, const float* gradient, const Weights& w,
                              float* m, float v, size_t count) {
  const AdamVectors constants(settings);
  const V32 scale = hn::Set(F32(), gradient_scale), new_v = hn::Set(F32(), v);
  for (size_t i = 0; i < count; i += kLanes) {
    const V32 g = hn::Mul(hn::LoadU(F32(), gradient + i), scale);
    const V32 new_m =
        Fma(constants.one_minus_beta1, g, hn::Mul(constants.beta1, hn::LoadU(F32(), m + i)));
    hn::StoreU(new_m, F32(), m + i);
    w.Store(Move(constants, step, w.Load(i), new_m, new_v), i);
  }
}

void AdamShared(const AdamConstants& settings, const AdamScalars& step, float gradient_scale,
                const float* gradient, const WeightRow& row, float* m, float v, size_t count) {
  WithWeights(row, [&](const auto& w) HWY_ATTR {
    AdamSharedRow(settings, step, gradient_scale, gradient, w, m, v, count);
  });
}

/// The same with a gradient of zero, steps inside: a fused multiply-add with a product of +0 is an
/// addition of +0 (which is not nothing: it turns -0 into +0).
template <class Weights>
HWY_INLINE void CatchUpRow(const AdamConstants& settings, const AdamScalars* steps,
                           size_t step_count, float rest_w, float rest_m, float rest_v,
                           const Weights& w, float* m, float* v, size_t count) {
  constexpr size_t kUnroll = kStep / kLanes < 2 ? 2 : kStep / kLanes;
  const AdamVectors constants(settings);
  const V32 zero = hn::Zero(F32());
  const auto run = [&](size_t i, size_t vectors) HWY_ATTR {
    V32 ws[kUnroll], ms[kUnroll], vs[kUnroll];
    for (size_t u = 0; u < vectors; ++u) {
      ws[u] = w.Load(i + u * kLanes);
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
      w.Store(hn::Mul(ws[u], hn::Set(F32(), rest_w)), i + u * kLanes);
      hn::StoreU(hn::Mul(ms[u], hn::Set(F32(), rest_m)), F32(), m + i + u * kLanes);
      hn::StoreU(hn::Mul(vs[u], hn::Set(F32(), rest_v)), F32(), v + i + u * kLanes);
    }
  };
  size_t i = 0;
  for (; i + kUnroll * kLanes <= count; i += kUnroll * kLanes) run(i, kUnroll);
  for (; i < count; i += kLanes) run(i, 1);
}

void CatchUp(const AdamConstants& settings, const AdamScalars* steps, size_t step_count,
             float rest_w, float rest_m, float rest_v, const WeightRow& row, float* m, float* v,
             size_t count) {
  WithWeights(row, [&](const auto& w) HWY_ATTR {
    CatchUpRow(settings, steps, step_count, rest_w, rest_m, rest_v, w, m, v, count);
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace mf
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mf {
HWY_EXPORT(Adam);
HWY_EXPORT(AdamShared);
HWY_EXPORT(CatchUp);

namespace {

/// 1 - beta1^step and 1 / sqrt(1 - beta2^step).
struct BiasCorrection {
  uint64_t step = 0;
  double beta1 = 0, beta2 = 0;
  double first = 0, inverse_root = 0;
};

/// Rows that catch up do so over the same last few hundred steps, and a power costs as much as a
/// step of 64 columns: each thread keeps the last ones it computed.
const BiasCorrection& CorrectionAt(const OptimizerSettings& settings, uint64_t step) {
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

AdamScalars ScalarsAt(const OptimizerSettings& settings, double lr, double decay, uint64_t step) {
  const BiasCorrection& correction = CorrectionAt(settings, step);
  return {static_cast<float>(1 - lr * decay), static_cast<float>(lr / correction.first),
          static_cast<float>(correction.inverse_root)};
}

AdamConstants ConstantsOf(const OptimizerSettings& settings) {
  return {static_cast<float>(settings.beta1), static_cast<float>(1 - settings.beta1),
          static_cast<float>(settings.beta2), static_cast<float>(1 - settings.beta2),
          static_cast<float>(settings.eps)};
}

}  // namespace

void AdamStep(const OptimizerSettings& settings, double lr, double decay, uint64_t step,
              float gradient_scale, const float* gradient, const WeightRow& w, float* m, float* v,
              size_t count) {
  HWY_DYNAMIC_DISPATCH(Adam)
  (ConstantsOf(settings), ScalarsAt(settings, lr, decay, step), gradient_scale, gradient, w, m, v,
   count);
}

void AdamMove(const OptimizerSettings& settings, double lr, double decay, uint64_t step,
              float gradient_scale, const float* gradient, const WeightRow& w, float* m, float v,
              size_t count) {
  HWY_DYNAMIC_DISPATCH(AdamShared)
  (ConstantsOf(settings), ScalarsAt(settings, lr, decay, step), gradient_scale, gradient, w, m, v,
   count);
}

void AdamCatchUp(const OptimizerSettings& settings, std::span<const float> lr, double decay,
                 uint64_t from, double rest_decay, uint64_t rest_steps, const WeightRow& w,
                 float* m, float* v, size_t count) {
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

void AdamCatchUp(const MissedSteps& missed, const WeightRow& w, float* m, float* v, size_t count) {
  const uint64_t steps = std::min(missed.to - missed.from, kCatchUpMax);
  const TensorHistory& history = missed.history;
  AdamCatchUp(missed.settings, std::span(history.rates() + missed.from, steps),
              history.weight_decay(), missed.from, history.Decay(missed.from + steps, missed.to),
              missed.to - missed.from - steps, w, m, v, count);
}

namespace {

void StepRow(const RowStep& s, const RowState& row, const RowColumns& columns) {
  AdamStep(s.settings, s.lr, s.weight_decay, s.step, s.gradient_scale, s.gradient, row.w,
           row.moments[0], row.moments[1], columns.padded);
}

void CatchUpRow(const MissedSteps& missed, const RowState& row, const RowColumns& columns) {
  AdamCatchUp(missed, row.w, row.moments[0], row.moments[1], columns.padded);
}

}  // namespace

const OptimizerRule kAdamRule = {.moments = 2, .step = StepRow, .catch_up = CatchUpRow};

}  // namespace mf
#endif
