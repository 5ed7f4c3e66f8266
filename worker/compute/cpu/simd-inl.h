// Helpers for the vector loops of this folder. Included once per instruction set by Highway's
// foreach_target.h. Row tails go through the same vector code as the rest, padded with zeros.
#if defined(MF_WORKER_BACKEND_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MF_WORKER_BACKEND_SIMD_INL_H_
#undef MF_WORKER_BACKEND_SIMD_INL_H_
#else
#define MF_WORKER_BACKEND_SIMD_INL_H_
#endif

#include <cstddef>
#include <cstring>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace mf::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
using Vector = hn::Vec<Floats>;
constexpr size_t kMaxLanes = hn::MaxLanes(Floats());

/// The first `count` <= Lanes numbers at `from`; zeros in the other lanes.
HWY_INLINE Vector LoadPart(Floats d, const float* from, size_t count) {
  if (count == hn::Lanes(d)) return hn::LoadU(d, from);
  HWY_ALIGN float lanes[kMaxLanes] = {};
  std::memcpy(lanes, from, count * sizeof(float));
  return hn::Load(d, lanes);
}

/// Stores the first `count` <= Lanes lanes.
HWY_INLINE void StorePart(Floats d, Vector value, float* to, size_t count) {
  if (count == hn::Lanes(d)) {
    hn::StoreU(value, d, to);
    return;
  }
  HWY_ALIGN float lanes[kMaxLanes];
  hn::Store(value, d, lanes);
  std::memcpy(to, lanes, count * sizeof(float));
}

/// exp(x). Highway's gives 0 for NaN; a NaN has to reach the gradients so that the step is dropped.
HWY_INLINE Vector ExpOrNaN(Floats d, Vector x) {
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Exp(d, x));
}

HWY_INLINE float SumLanes(Floats d, Vector x) { return hn::GetLane(hn::SumOfLanes(d, x)); }

}  // namespace mf::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MF_WORKER_BACKEND_SIMD_INL_H_
