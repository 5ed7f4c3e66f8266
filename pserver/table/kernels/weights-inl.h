// Where a kernel's weights come from and go to: a row of f32, or a split one. Included once per
// instruction set (no include guard as such), after common/kernels/simd-inl.h.
#if defined(MF_PSERVER_KERNELS_WEIGHTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MF_PSERVER_KERNELS_WEIGHTS_INL_H_
#undef MF_PSERVER_KERNELS_WEIGHTS_INL_H_
#else
#define MF_PSERVER_KERNELS_WEIGHTS_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "pserver/table/split_weights.h"

HWY_BEFORE_NAMESPACE();
namespace mf {
namespace HWY_NAMESPACE {

using U32 = hn::RebindToUnsigned<F32>;
using I32 = hn::RebindToSigned<F32>;

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

}  // namespace HWY_NAMESPACE
}  // namespace mf
HWY_AFTER_NAMESPACE();

#endif  // per target
