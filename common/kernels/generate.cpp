// Normal numbers from counters. A never-updated row is not stored anywhere: it *is* what this file
// computes, so the logarithm, sine and cosine are written out here, with a fixed order of fused
// multiply-adds, instead of being a library's whose next version may round differently.
#include "common/kernels/generate.h"

#include <algorithm>
#include <array>

#include "common/base/random.h"

// The order of these matters: targets, then this file once per target.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/kernels/generate.cpp"
#include "common/kernels/targets-inl.h"
#include "hwy/foreach_target.h"
#include "common/kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace mf {
namespace HWY_NAMESPACE {
namespace {

using U32 = hn::RebindToUnsigned<F32>;
using I32 = hn::RebindToSigned<F32>;
using VU32 = hn::Vec<U32>;

HWY_INLINE V32 Constant(double value) { return hn::Set(F32(), static_cast<float>(value)); }

/// The Philox words of kLanes consecutive quads of a row, quad per lane.
struct Words {
  VU32 word[4];
  HWY_INLINE Words() {}  // an implicit one would lack the target's attributes: an error on NEON
};

#if HWY_TARGET == HWY_SCALAR
HWY_INLINE Words PhiloxQuads(uint64_t key, uint64_t row, uint32_t quad) {
  const auto words =
      Philox(key, {static_cast<uint32_t>(row), static_cast<uint32_t>(row >> 32), quad, 0});
  Words out;
  for (size_t i = 0; i < 4; ++i) out.word[i] = hn::Set(U32(), words[i]);
  return out;
}
#else
/// Ten rounds on quads in the low halves of 64-bit lanes. The high halves hold remains of products:
/// a product reads low halves only, and nothing else moves bits downwards before the end.
HWY_INLINE void PhiloxRounds(uint64_t key, uint64_t row, hn::Vec<hn::RepartitionToWide<U32> > quad,
                             hn::Vec<hn::RepartitionToWide<U32> > (&c)[4]) {
  const hn::RepartitionToWide<U32> d64;
  const U32 d32;
  const auto multiply0 = hn::Set(d32, 0xD2511F53u), multiply1 = hn::Set(d32, 0xCD9E8D57u);
  c[0] = hn::Set(d64, row & 0xFFFFFFFFu);
  c[1] = hn::Set(d64, row >> 32);
  c[2] = quad;
  c[3] = hn::Zero(d64);
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const auto p0 = hn::MulEven(hn::BitCast(d32, c[0]), multiply0);
    const auto p1 = hn::MulEven(hn::BitCast(d32, c[2]), multiply1);
    c[0] = hn::Xor(hn::ShiftRight<32>(p1), hn::Xor(c[1], hn::Set(d64, uint64_t{k0})));
    c[1] = p1;
    c[2] = hn::Xor(hn::ShiftRight<32>(p0), hn::Xor(c[3], hn::Set(d64, uint64_t{k1})));
    c[3] = p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

HWY_INLINE Words PhiloxQuads(uint64_t key, uint64_t row, uint32_t quad) {
  const hn::RepartitionToWide<U32> d64;
  const U32 d32;
  const auto quads = hn::BitCast(d64, hn::Iota(d32, quad));
  hn::Vec<decltype(d64)> even[4], odd[4];
  PhiloxRounds(key, row, hn::And(quads, hn::Set(d64, 0xFFFFFFFFu)), even);
  PhiloxRounds(key, row, hn::ShiftRight<32>(quads), odd);
  Words out;
  for (size_t i = 0; i < 4; ++i) {
    out.word[i] =
        hn::OddEven(hn::BitCast(d32, hn::ShiftLeft<32>(odd[i])), hn::BitCast(d32, even[i]));
  }
  return out;
}
#endif

/// ln y for normal y > 0: y = 2^k * m with m in [1/sqrt 2, sqrt 2), ln m = 2 atanh((m - 1) / (m +
/// 1)). The series to the 9th power leaves 2^-28 of the result. Exact zero at 1, and few ulp around
/// it.
HWY_INLINE V32 LogNormal(V32 y) {
  const I32 di;
  // Subtracting the bits of 1/sqrt 2 makes the exponent field step where the mantissa passes it.
  const auto shifted = hn::Sub(hn::BitCast(di, y), hn::Set(di, 0x3F3504F3));
  const auto k = hn::ShiftRight<23>(shifted);
  const V32 m = hn::BitCast(F32(), hn::Sub(hn::BitCast(di, y), hn::ShiftLeft<23>(k)));
  const V32 one = Constant(1.0);
  const V32 t = hn::Div(hn::Sub(m, one), hn::Add(m, one));
  const V32 t2 = hn::Mul(t, t);
  V32 series = Fma(Constant(2.0 / 9), t2, Constant(2.0 / 7));
  series = Fma(series, t2, Constant(2.0 / 5));
  series = Fma(series, t2, Constant(2.0 / 3));
  const V32 log_m = Fma(hn::Mul(series, t2), t, hn::Add(t, t));
  return Fma(hn::ConvertTo(F32(), k), Constant(0.693147180559945309), log_m);
}

/// sqrt(-2 ln u) for u = (word + 1) * 2^-32. Near 1 u itself would lose what matters in a float:
/// there 1 - u = ~word * 2^-32 is kept, and ln u = ln y + (u - y) / y with y = u rounded.
HWY_INLINE V32 Radius(VU32 word) {
  const I32 di;
  const auto bits = hn::BitCast(di, word);
  const auto high = hn::BroadcastSignBit(bits);  // all ones where u > 1/2
  const V32 s = hn::Mul(hn::ConvertTo(F32(), hn::Xor(bits, high)), Constant(0x1p-32));
  const auto is_high = hn::MaskFromVec(hn::BitCast(F32(), high));
  const V32 one = Constant(1.0);
  const V32 y = hn::IfThenElse(is_high, hn::Sub(one, s), hn::Add(s, Constant(0x1p-32)));
  const V32 rest = hn::IfThenElseZero(is_high, hn::Sub(hn::Sub(one, y), s));
  // 1 / y = 2 - y to first order; rest is at most 2^-25, and 0 or nearly so far from 1.
  const V32 log_u = Fma(rest, hn::Sub(Constant(2.0), y), LogNormal(y));
  return hn::Sqrt(hn::Max(hn::Mul(log_u, Constant(-2.0)), hn::Zero(F32())));
}

/// cos and sin of 2 pi * word * 2^-32: the nearest quarter turn is taken off in integers, which is
/// exact; the rest is within pi/4, where the Taylor series to the 8th and 9th power are good to
/// 3e-8.
HWY_INLINE void CosSin(VU32 word, V32& cosine, V32& sine) {
  const U32 du;
  const I32 di;
  const auto quarter = hn::ShiftRight<30>(hn::Add(word, hn::Set(du, 1u << 29)));
  const auto rest = hn::BitCast(di, hn::Sub(word, hn::ShiftLeft<30>(quarter)));
  const V32 a = hn::Mul(hn::ConvertTo(F32(), rest), Constant(6.283185307179586477 * 0x1p-32));
  const V32 a2 = hn::Mul(a, a);
  V32 s = Fma(Constant(1.0 / 362880), a2, Constant(-1.0 / 5040));
  s = Fma(s, a2, Constant(1.0 / 120));
  s = Fma(s, a2, Constant(-1.0 / 6));
  s = Fma(hn::Mul(s, a2), a, a);
  V32 c = Fma(Constant(1.0 / 40320), a2, Constant(-1.0 / 720));
  c = Fma(c, a2, Constant(1.0 / 24));
  c = Fma(c, a2, Constant(-0.5));
  c = Fma(c, a2, Constant(1.0));
  // An odd quarter swaps them; cos is negative in quarters 1 and 2, sin in 2 and 3.
  const auto swap = hn::MaskFromVec(
      hn::BitCast(F32(), hn::BroadcastSignBit(hn::BitCast(di, hn::ShiftLeft<31>(quarter)))));
  const auto sign = hn::Set(du, 0x80000000u);
  const auto sine_sign = hn::And(hn::ShiftLeft<30>(quarter), sign);
  const auto cosine_sign = hn::Xor(sine_sign, hn::ShiftLeft<31>(quarter));
  cosine = hn::Xor(hn::IfThenElse(swap, s, c), hn::BitCast(F32(), cosine_sign));
  sine = hn::Xor(hn::IfThenElse(swap, c, s), hn::BitCast(F32(), sine_sign));
}

/// Columns 4 * quad ... of kLanes quads.
HWY_INLINE void GenerateQuads(uint64_t key, uint64_t row, uint32_t quad, V32 factor, float* out) {
  const Words words = PhiloxQuads(key, row, quad);
  V32 columns[4];
  for (size_t half = 0; half < 2; ++half) {
    const V32 radius = hn::Mul(factor, Radius(words.word[2 * half]));
    V32 cosine, sine;
    CosSin(words.word[2 * half + 1], cosine, sine);
    columns[2 * half] = hn::Mul(radius, cosine);
    columns[2 * half + 1] = hn::Mul(radius, sine);
  }
  hn::StoreInterleaved4(columns[0], columns[1], columns[2], columns[3], F32(), out);
}

void Generate(uint64_t key, uint64_t row, size_t begin, size_t end, float factor, float* out) {
  constexpr size_t kColumns = 4 * kLanes;
  const V32 factors = hn::Set(F32(), factor);
  size_t c = begin;
  for (; c + kColumns <= end; c += kColumns) {
    GenerateQuads(key, row, static_cast<uint32_t>(c / 4), factors, out + (c - begin));
  }
  if (c < end) {
    alignas(64) float last[std::max(kColumns, kStep)];
    for (size_t at = c; at < end; at += kColumns) {
      GenerateQuads(key, row, static_cast<uint32_t>(at / 4), factors, last);
      std::copy(last, last + std::min(kColumns, end - at), out + (at - begin));
    }
  }
  const size_t count = end - begin;
  std::fill(out + count, out + (count + kStep - 1) / kStep * kStep, 0.0f);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace mf
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mf {
HWY_EXPORT(Generate);

void GenerateNormal(uint64_t key, uint64_t row, size_t begin, size_t end, double stddev,
                    double scale, float* out) {
  if (begin >= end) return;
  HWY_DYNAMIC_DISPATCH(Generate)(key, row, begin, end, static_cast<float>(stddev * scale), out);
}
}  // namespace mf
#endif
