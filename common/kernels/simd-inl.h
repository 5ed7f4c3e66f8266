// What the kernels share: 16 floats as an array of vectors, loads from any alignment, tails that
// are padded through a 16-float temporary. Included once per instruction set (no include guard as
// such).
#if defined(MF_COMMON_KERNELS_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MF_COMMON_KERNELS_SIMD_INL_H_
#undef MF_COMMON_KERNELS_SIMD_INL_H_
#else
#define MF_COMMON_KERNELS_SIMD_INL_H_
#endif

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace mf {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr size_t kStep = 16;  // columns are padded to a multiple of this

using F32 = hn::CappedTag<float, kStep>;
using V32 = hn::Vec<F32>;
inline constexpr size_t kLanes = hn::MaxLanes(F32());
inline constexpr size_t kVectors = kStep / kLanes;  // vectors a step

/// a * b + c with one rounding on every target.
template <class V>
HWY_INLINE V Fma(V a, V b, V c) {
#if HWY_NATIVE_FMA
  return hn::MulAdd(a, b, c);
#else
  static_assert(HWY_TARGET == HWY_SCALAR, "a target without FMA gives other bits");
  return hn::Set(hn::DFromV<V>(), std::fma(hn::GetLane(a), hn::GetLane(b), hn::GetLane(c)));
#endif
}

/// c - a * b with one rounding.
template <class V>
HWY_INLINE V FmaNegated(V a, V b, V c) {
#if HWY_NATIVE_FMA
  return hn::NegMulAdd(a, b, c);
#else
  return Fma(hn::Neg(a), b, c);
#endif
}

/// One vector from floats of any alignment. `floats` is not dereferenced as a float.
HWY_INLINE V32 LoadAny(const float* floats) {
#if HWY_TARGET == HWY_SCALAR
  float value;
  std::memcpy(&value, static_cast<const void*>(floats), sizeof(value));
  return hn::Set(F32(), value);
#else
  return hn::LoadU(F32(), floats);
#endif
}

/// One vector of a row: f32, or bf16, the upper half of an f32, widened. Aligned to its numbers.
HWY_INLINE V32 LoadRow(const float* row) { return hn::LoadU(F32(), row); }
HWY_INLINE V32 LoadRow(const uint16_t* row) {
  const hn::RebindToUnsigned<F32> bits;
  const hn::Rebind<uint16_t, F32> narrow;
  return hn::BitCast(F32(), hn::ShiftLeft<16>(hn::PromoteTo(bits, hn::LoadU(narrow, row))));
}

/// Numbers of a row in a cache line.
template <class T>
inline constexpr size_t kLineNumbers = 64 / sizeof(T);

/// The float at an address of any alignment.
HWY_INLINE float ReadFloat(const float* floats) {
  float value;
  std::memcpy(&value, static_cast<const void*>(floats), sizeof(value));
  return value;
}

/// The address `index` floats after `base`, which may have any alignment: only for the loads above.
HWY_INLINE const float* FloatsAt(const void* base, size_t index) {
  return reinterpret_cast<const float*>(static_cast<const unsigned char*>(base) +
                                        index * sizeof(float));
}

/// Up to 16 floats and zeros behind them, where reading 16 would leave the caller's memory.
struct PaddedStep {
  alignas(64) float values[kStep] = {};
  PaddedStep() = default;
  HWY_INLINE PaddedStep(const float* floats, size_t count) {
    std::memcpy(values, static_cast<const void*>(floats), count * sizeof(float));
  }
  HWY_INLINE void StoreTo(float* floats, size_t count) const {
    std::memcpy(floats, values, count * sizeof(float));
  }
};

HWY_INLINE void PrefetchLine(const void* address) { __builtin_prefetch(address, 0, 3); }

}  // namespace HWY_NAMESPACE
}  // namespace mf
HWY_AFTER_NAMESPACE();

#endif  // MF_COMMON_KERNELS_SIMD_INL_H_
