#include "common/kernels/wire.h"

#include <cmath>
#include <limits>

#include "common/base/bf16.h"
#include "common/base/buffer.h"
#include "common/kernels/pairs.h"

// The order of these matters: targets, then this file once per target.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/kernels/wire.cpp"
#include "common/kernels/targets-inl.h"
#include "hwy/foreach_target.h"
#include "common/kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace mf {
namespace HWY_NAMESPACE {
namespace {

// Each returns how many numbers it did; the rest is left to the definitions, one at a time. With
// one lane, that is all.

size_t PackVectors([[maybe_unused]] uint16_t* dst, [[maybe_unused]] const float* src,
                   [[maybe_unused]] size_t count) {
#if HWY_TARGET == HWY_SCALAR
  return 0;
#else
  // As signed numbers: what is compared and narrowed has no sign bit.
  const hn::RebindToSigned<F32> wide;
  const hn::Rebind<uint16_t, F32> narrow;
  const auto magnitude = hn::Set(wide, 0x7FFFFFFF), infinity = hn::Set(wide, 0x7F800000);
  const auto half = hn::Set(wide, 0x7FFF), one = hn::Set(wide, 1), quiet = hn::Set(wide, 0x40);
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const auto bits = hn::BitCast(wide, hn::LoadU(F32(), src + i));
    const auto upper = hn::ShiftRight<16>(bits);
    const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(half, hn::And(upper, one))));
    const auto is_nan = hn::Gt(hn::And(bits, magnitude), infinity);
    const auto kept = hn::IfThenElse(is_nan, hn::Or(upper, quiet), rounded);
    const auto low = hn::And(kept, hn::Set(wide, 0xFFFF));
    hn::StoreU(hn::DemoteTo(narrow, low), narrow, dst + i);
  }
  return i;
#endif
}

size_t UnpackVectors([[maybe_unused]] float* dst, [[maybe_unused]] const uint16_t* src,
                     [[maybe_unused]] size_t count) {
#if HWY_TARGET == HWY_SCALAR
  return 0;
#else
  const hn::RebindToUnsigned<F32> wide;
  const hn::Rebind<uint16_t, F32> narrow;
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const auto bits = hn::ShiftLeft<16>(hn::PromoteTo(wide, hn::LoadU(narrow, src + i)));
    hn::StoreU(hn::BitCast(F32(), bits), F32(), dst + i);
  }
  return i;
#endif
}

/// Of the tokens of every pair: values[p][t] = (sum over parts of part[p][t]) * factors[t].
size_t DotVectors([[maybe_unused]] std::span<const void* const> parts,
                  [[maybe_unused]] size_t pairs, [[maybe_unused]] size_t tokens,
                  [[maybe_unused]] const double* factors, [[maybe_unused]] float* values) {
#if HWY_TARGET == HWY_SCALAR
  return 0;
#else
  using F64 = hn::CappedTag<double, kStep / 2>;
  const F64 f64;
  const hn::RebindToSigned<F64> i64;
  const hn::Rebind<float, F64> narrow;
  constexpr size_t kLanes64 = hn::MaxLanes(F64());
  const auto load = [&](const void* part, size_t i) HWY_ATTR {
    return hn::LoadU(i64, reinterpret_cast<const int64_t*>(static_cast<const std::byte*>(part) +
                                                           i * sizeof(int64_t)));
  };
  const auto not_finite = hn::Set(i64, kDotNotFinite);
  const auto nan = hn::Set(f64, std::nan(""));
  const size_t end = tokens / kLanes64 * kLanes64;
  for (size_t p = 0; p < pairs; ++p) {
    for (size_t t = 0; t < end; t += kLanes64) {
      const size_t at = p * tokens + t;
      auto dot = load(parts[0], at);
      for (size_t s = 1; s < parts.size(); ++s) {
        const auto part = load(parts[s], at);
        const auto sticks = hn::Or(hn::Eq(dot, not_finite), hn::Eq(part, not_finite));
        dot = hn::IfThenElse(sticks, not_finite, hn::Add(dot, part));
      }
      // A power of two times a double is exact here: nothing is below 2^-168 or above 2^151.
      const auto value = hn::Mul(hn::ConvertTo(f64, dot), hn::LoadU(f64, factors + t));
      const auto stuck = hn::RebindMask(f64, hn::Eq(dot, not_finite));
      hn::StoreU(hn::DemoteTo(narrow, hn::IfThenElse(stuck, nan, value)), narrow, values + at);
    }
  }
  return end;
#endif
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace mf
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mf {
HWY_EXPORT(PackVectors);
HWY_EXPORT(UnpackVectors);
HWY_EXPORT(DotVectors);

namespace {
template <class T>
uint32_t Widen(const void* src, size_t count, uint32_t* dst) {
  uint32_t any = 0;
  for (size_t i = 0; i < count; ++i) {
    dst[i] = LoadUnaligned<T>(src, i);
    any |= dst[i];
  }
  return any;
}
}  // namespace

uint32_t WidenIndices(const void* src, int index_bytes, size_t count, uint32_t* dst) {
  switch (index_bytes) {
    case 1:
      return Widen<uint8_t>(src, count, dst);
    case 2:
      return Widen<uint16_t>(src, count, dst);
    default:
      return Widen<uint32_t>(src, count, dst);
  }
}

void PackBf16(void* dst, const float* src, size_t count) {
  size_t i = HWY_DYNAMIC_DISPATCH(PackVectors)(static_cast<uint16_t*>(dst), src, count);
  for (; i < count; ++i) {
    const uint16_t bits = ToBf16(src[i]);
    std::memcpy(static_cast<std::byte*>(dst) + 2 * i, &bits, sizeof bits);
  }
}

void UnpackBf16(float* dst, const void* src, size_t count) {
  size_t i = HWY_DYNAMIC_DISPATCH(UnpackVectors)(dst, static_cast<const uint16_t*>(src), count);
  for (; i < count; ++i) dst[i] = FromBf16(LoadUnaligned<uint16_t>(src, i));
}

void DotValues(std::span<const void* const> parts, size_t pairs, size_t tokens,
               const int8_t* exponents, float* values) {
  // ldexp costs as much as a dozen multiplications: once a token, not once a dot.
  const Buffer buffer(tokens * sizeof(double));
  double* factors = buffer.as<double>();
  for (size_t t = 0; t < tokens; ++t) {
    factors[t] = exponents[t] == kNotFinite ? std::nan("") : std::ldexp(1.0, exponents[t] - 40);
  }
  const size_t done = HWY_DYNAMIC_DISPATCH(DotVectors)(parts, pairs, tokens, factors, values);
  for (size_t p = 0; p < pairs && done < tokens; ++p) {
    for (size_t t = done; t < tokens; ++t) {
      const size_t at = p * tokens + t;
      int64_t dot = LoadUnaligned<int64_t>(parts[0], at);
      for (size_t s = 1; s < parts.size(); ++s) {
        dot = AddDots(dot, LoadUnaligned<int64_t>(parts[s], at));
      }
      values[at] = DotValue(dot, exponents[t]);
    }
  }
}
}  // namespace mf
#endif
