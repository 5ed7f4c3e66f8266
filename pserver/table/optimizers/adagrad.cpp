// Which operations are fused is part of the result, so it is written out:
//   a' = g * g (+) a                        w' = w * decay (-) lr * (g / (sqrt(a') + eps))
// (+) and (-) end a fused multiply-add; decay = 1 - lr * wd is computed in double and rounded once.
#include "pserver/table/optimizers/adagrad.h"

#include <cmath>

#include "pserver/table/optimizers/rule.h"

// The order of these matters: targets, then this file once per target.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "pserver/table/optimizers/adagrad.cpp"
#include "common/kernels/targets-inl.h"
#include "hwy/foreach_target.h"
#include "common/kernels/simd-inl.h"
#include "pserver/table/kernels/weights-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace mf {
namespace HWY_NAMESPACE {
namespace {

void Adagrad(float decay, float rate, float eps, float gradient_scale, const float* gradient,
             const WeightRow& row, float* squares, size_t count) {
  WithWeights(row, [&](const auto& w) HWY_ATTR {
    for (size_t i = 0; i < count; i += kLanes) {
      const V32 g = hn::Mul(hn::LoadU(F32(), gradient + i), hn::Set(F32(), gradient_scale));
      const V32 sum = Fma(g, g, hn::LoadU(F32(), squares + i));
      hn::StoreU(sum, F32(), squares + i);
      const V32 move = hn::Div(g, hn::Add(hn::Sqrt(sum), hn::Set(F32(), eps)));
      const V32 decayed = hn::Mul(w.Load(i), hn::Set(F32(), decay));
      w.Store(FmaNegated(hn::Set(F32(), rate), move, decayed), i);
    }
  });
}

void AdagradShared(float decay, float rate, float denominator, float gradient_scale,
                   const float* gradient, const WeightRow& row, size_t count) {
  WithWeights(row, [&](const auto& w) HWY_ATTR {
    for (size_t i = 0; i < count; i += kLanes) {
      const V32 g = hn::Mul(hn::LoadU(F32(), gradient + i), hn::Set(F32(), gradient_scale));
      const V32 move = hn::Div(g, hn::Set(F32(), denominator));
      const V32 decayed = hn::Mul(w.Load(i), hn::Set(F32(), decay));
      w.Store(FmaNegated(hn::Set(F32(), rate), move, decayed), i);
    }
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace mf
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mf {
HWY_EXPORT(Adagrad);
HWY_EXPORT(AdagradShared);

void AdagradStep(double lr, double decay, double eps, float gradient_scale, const float* gradient,
                 const WeightRow& w, float* squares, size_t count) {
  HWY_DYNAMIC_DISPATCH(Adagrad)
  (static_cast<float>(1 - lr * decay), static_cast<float>(lr), static_cast<float>(eps),
   gradient_scale, gradient, w, squares, count);
}

void AdagradMove(double lr, double decay, double eps, float gradient_scale, const float* gradient,
                 const WeightRow& w, float squares, size_t count) {
  HWY_DYNAMIC_DISPATCH(AdagradShared)
  (static_cast<float>(1 - lr * decay), static_cast<float>(lr),
   std::sqrt(squares) + static_cast<float>(eps), gradient_scale, gradient, w, count);
}

namespace {

void StepRow(const RowStep& s, const RowState& row, const RowColumns& columns) {
  AdagradStep(s.lr, s.weight_decay, s.settings.eps, s.gradient_scale, s.gradient, row.w,
              row.moments[0], columns.padded);
}

}  // namespace

const OptimizerRule kAdagradRule = {.moments = 1, .step = StepRow, .catch_up = DecayOnly};

}  // namespace mf
#endif
