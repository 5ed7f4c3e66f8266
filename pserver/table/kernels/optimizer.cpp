// Optimizer steps over a row. Which operations are fused is part of the result, so it is written
// out:
//   m' = (1 - b1) * g (+) b1 * m            v' = ((1 - b2) * g) * g (+) b2 * v
//   w' = w * decay (-) rate * (m' / (sqrt(v') * c (+) eps))
// and for Adagrad, with one sum of squares a:
//   a' = g * g (+) a                        w' = w * decay (-) lr * (g / (sqrt(a') + eps))
// (+) and (-) end a fused multiply-add. decay = 1 - lr * wd, rate = lr / (1 - b1^step) and
// c = 1 / sqrt(1 - b2^step) are computed in double and rounded once. sqrt and / are IEEE, so a
// lane's result depends on nothing but the lane.
#include "pserver/table/kernels/optimizer.h"

#include <algorithm>
#include <cmath>

#include "common/base/check.h"

// The order of these matters: targets, then this file once per target.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "pserver/table/kernels/optimizer.cpp"
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

using U32 = hn::RebindToUnsigned<F32>;
using I32 = hn::RebindToSigned<F32>;

/// Where a kernel's w comes from and goes to: a row of f32, or a split one.
struct F32Weights {
  float* row;
  HWY_INLINE V32 Load(size_t i) const { return hn::LoadU(F32(), row + i); }
  HWY_INLINE void Store(V32 w, size_t i) const { hn::StoreU(w, F32(), row + i); }
};

HWY_INLINE hn::Vec<I32> HighBits(V32 w) {
  const auto bits = hn::BitCast(U32(), w);
  return hn::BitCast(I32(), hn::ShiftRight<16>(hn::Add(bits, hn::Set(U32(), 0x8000u))));
}

struct SplitWeights {
  uint16_t* high;
  int16_t* low;
  HWY_INLINE V32 Load(size_t i) const {
    const auto top = hn::PromoteTo(U32(), hn::LoadU(hn::Rebind<uint16_t, U32>(), high + i));
    const auto rest = hn::PromoteTo(I32(), hn::LoadU(hn::Rebind<int16_t, I32>(), low + i));
    return hn::BitCast(F32(), hn::Add(hn::BitCast(I32(), hn::ShiftLeft<16>(top)), rest));
  }
  HWY_INLINE void Store(V32 w, size_t i) const {
    const hn::Rebind<uint16_t, U32> narrow;
    const hn::Rebind<int16_t, I32> narrow_signed;
    const auto top = HighBits(w);
    const auto rest = hn::Sub(hn::BitCast(I32(), w), hn::ShiftLeft<16>(top));
    hn::StoreU(hn::DemoteTo(narrow, top), narrow, high + i);  // nothing saturates
    hn::StoreU(hn::DemoteTo(narrow_signed, rest), narrow_signed, low + i);
  }
};

template <class Kernel>
HWY_INLINE void WithWeights(const WeightRow& row, const Kernel& kernel) {
  if (row.split()) {
    kernel(SplitWeights{row.high, row.low});
  } else {
    kernel(F32Weights{row.f32});
  }
}

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

void ScaleRow(const WeightRow& row, float factor, size_t count) {
  WithWeights(row, [&](const auto& w) HWY_ATTR {
    for (size_t i = 0; i < count; i += kLanes) {
      w.Store(hn::Mul(w.Load(i), hn::Set(F32(), factor)), i);
    }
  });
}

void RoundScaled(uint16_t* dst, const WeightRow& row, float factor, size_t count) {
  const hn::Rebind<uint16_t, U32> narrow;
  WithWeights(row, [&](const auto& w) HWY_ATTR {
    for (size_t i = 0; i < count; i += kLanes) {
      const auto top = HighBits(hn::Mul(w.Load(i), hn::Set(F32(), factor)));
      hn::StoreU(hn::DemoteTo(narrow, top), narrow, dst + i);
    }
  });
}

void Scale(float* dst, const float* src, float factor, size_t count) {
  for (size_t i = 0; i < count; i += kLanes) {
    hn::StoreU(hn::Mul(hn::LoadU(F32(), src + i), hn::Set(F32(), factor)), F32(), dst + i);
  }
}

/// A square of a float is exact in double, so fused or not makes no difference here.
void SumSquares(SquareSum* sums, const float* row, const ColumnRange* blocks, size_t block_count) {
  using F64 = hn::CappedTag<double, 8>;
  constexpr size_t kWide = hn::MaxLanes(F64());
  constexpr size_t kParts = 8 / kWide;
  const hn::Rebind<float, F64> narrow;
  for (size_t b = 0; b < block_count; ++b) {
    double* const lanes = sums[b].lane;
    hn::Vec<F64> parts[kParts];
    for (size_t p = 0; p < kParts; ++p) parts[p] = hn::LoadU(F64(), lanes + p * kWide);
    // The padding of the last block is zero and adds nothing.
    const float* const end = row + blocks[b].end;
    for (const float* x = row + blocks[b].begin; x < end; x += 8) {
      for (size_t p = 0; p < kParts; ++p) {
        const auto wide = hn::PromoteTo(F64(), hn::LoadU(narrow, x + p * kWide));
        parts[p] = hn::Add(parts[p], hn::Mul(wide, wide));
      }
    }
    for (size_t p = 0; p < kParts; ++p) hn::StoreU(parts[p], F64(), lanes + p * kWide);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace mf
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mf {
HWY_EXPORT(Adam);
HWY_EXPORT(CatchUp);
HWY_EXPORT(Adagrad);
HWY_EXPORT(Sgd);
HWY_EXPORT(Scale);
HWY_EXPORT(ScaleRow);
HWY_EXPORT(RoundScaled);
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
              float gradient_scale, const float* gradient, const WeightRow& w, float* m, float* v,
              size_t count) {
  HWY_DYNAMIC_DISPATCH(Adam)
  (ConstantsOf(settings), ScalarsAt(settings, lr, decay, step), gradient_scale, gradient, w, m, v,
   count);
}

void AdamCatchUp(const AdamSettings& settings, std::span<const float> lr, double decay,
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

void AdagradStep(double lr, double decay, double eps, float gradient_scale, const float* gradient,
                 const WeightRow& w, float* squares, size_t count) {
  HWY_DYNAMIC_DISPATCH(Adagrad)
  (static_cast<float>(1 - lr * decay), static_cast<float>(lr), static_cast<float>(eps),
   gradient_scale, gradient, w, squares, count);
}

void SgdStep(double lr, double decay, float gradient_scale, const float* gradient,
             const WeightRow& w, size_t count) {
  HWY_DYNAMIC_DISPATCH(Sgd)
  (static_cast<float>(1 - lr * decay), static_cast<float>(lr), gradient_scale, gradient, w, count);
}

void ScaleInto(float* dst, const float* src, float factor, size_t count) {
  HWY_DYNAMIC_DISPATCH(Scale)(dst, src, factor, count);
}

void ScaleWeights(const WeightRow& w, float factor, size_t count) {
  HWY_DYNAMIC_DISPATCH(ScaleRow)(w, factor, count);
}

void RoundScaledInto(uint16_t* dst, const WeightRow& w, float factor, size_t count) {
  HWY_DYNAMIC_DISPATCH(RoundScaled)(dst, w, factor, count);
}

double SquareSum::Total() const {
  double total = 0;
  for (const double part : lane) total += part;
  return total;
}

void AddSquares(SquareSum* sums, const float* row, std::span<const ColumnRange> blocks) {
  HWY_DYNAMIC_DISPATCH(SumSquares)(sums, row, blocks.data(), blocks.size());
}

}  // namespace mf
#endif
