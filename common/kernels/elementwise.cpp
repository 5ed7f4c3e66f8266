// Whole-vector checks and sums on bytes from the network.
#include "common/kernels/pairs.h"

// The order of these matters: targets, then this file once per target.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/kernels/elementwise.cpp"
#include "common/kernels/targets-inl.h"
#include "hwy/foreach_target.h"
#include "common/kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace mf {
namespace HWY_NAMESPACE {
namespace {

/// Infinities and NaNs are the bit patterns at and above that of infinity, sign aside.
bool Finite(const void* data, size_t count) {
  constexpr int32_t kInfinity = 0x7F800000;
  const hn::RebindToSigned<F32> di;
  const auto magnitude_bits = hn::Set(di, 0x7FFFFFFF);
  hn::Vec<decltype(di)> largest[kVectors];
  for (size_t v = 0; v < kVectors; ++v) largest[v] = hn::Zero(di);
  const auto look = [&](const float* at) HWY_ATTR {
    for (size_t v = 0; v < kVectors; ++v) {
      const auto bits = hn::And(hn::BitCast(di, LoadAny(at + v * kLanes)), magnitude_bits);
      largest[v] = hn::Max(largest[v], bits);
    }
  };
  size_t i = 0;
  for (; i + kStep <= count; i += kStep) look(FloatsAt(data, i));
  if (i < count) look(PaddedStep(FloatsAt(data, i), count - i).values);
  for (size_t v = 1; v < kVectors; ++v) largest[0] = hn::Max(largest[0], largest[v]);
  return hn::GetLane(hn::MaxOfLanes(di, largest[0])) < kInfinity;
}

void Add(float* dst, const void* src, size_t count) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    hn::StoreU(hn::Add(hn::LoadU(F32(), dst + i), LoadAny(FloatsAt(src, i))), F32(), dst + i);
  }
  for (; i < count; ++i) dst[i] += ReadFloat(FloatsAt(src, i));
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace mf
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mf {
HWY_EXPORT(Finite);
HWY_EXPORT(Add);

bool AllFinite(const void* data, size_t count) { return HWY_DYNAMIC_DISPATCH(Finite)(data, count); }

void AddInto(float* dst, const void* src, size_t count) {
  HWY_DYNAMIC_DISPATCH(Add)(dst, src, count);
}
}  // namespace mf
#endif
