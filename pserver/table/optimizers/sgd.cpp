#include "pserver/table/optimizers/sgd.h"

#include "pserver/table/optimizers/rule.h"

// The order of these matters: targets, then this file once per target.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "pserver/table/optimizers/sgd.cpp"
#include "common/kernels/targets-inl.h"
#include "hwy/foreach_target.h"
#include "common/kernels/simd-inl.h"
#include "pserver/table/kernels/weights-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace mf {
namespace HWY_NAMESPACE {
namespace {

void Sgd(float decay, float rate, float gradient_scale, const float* gradient, const WeightRow& row,
         size_t count) {
  WithWeights(row, [&](const auto& w) HWY_ATTR {
    for (size_t i = 0; i < count; i += kLanes) {
      const V32 g = hn::Mul(hn::LoadU(F32(), gradient + i), hn::Set(F32(), gradient_scale));
      const V32 decayed = hn::Mul(w.Load(i), hn::Set(F32(), decay));
      w.Store(FmaNegated(hn::Set(F32(), rate), g, decayed), i);
    }
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace mf
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mf {
HWY_EXPORT(Sgd);

void SgdStep(double lr, double decay, float gradient_scale, const float* gradient,
             const WeightRow& w, size_t count) {
  HWY_DYNAMIC_DISPATCH(Sgd)
  (static_cast<float>(1 - lr * decay), static_cast<float>(lr), gradient_scale, gradient, w, count);
}

namespace {

void StepRow(const RowStep& s, const RowState& row, const RowColumns& columns) {
  SgdStep(s.lr, s.weight_decay, s.gradient_scale, s.gradient, row.w, columns.padded);
}

}  // namespace

const OptimizerRule kSgdRule = {.moments = 0, .step = StepRow, .catch_up = DecayOnly};

}  // namespace mf
#endif
