// dL/dweight = <row, dL/dy> in fixed point (DESIGN 2.3), several pairs at a time.
//
// Rounding x * 2^(40 - e) to an integer takes no conversion instruction: 1.5 * 2^52 * 2^(e - 40)
// added to the double x leaves no bits below 2^(e - 40), rounded to nearest-even by the addition
// itself, and the bits of the sum, as an integer, are those of the constant plus the wanted number.
// This is right for |x| < 2^(e + 11), that is for integers below 2^51; the sum of the squares of
// all x of a group of pairs shows whether one may be larger (or not finite), and then the group is
// done again one number at a time, by the definition.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/kernels/pair_order-inl.h"
#include "common/kernels/pairs.h"

// The order of these matters: targets, then this file once per target.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/kernels/pair_dots.cpp"
#include "common/kernels/targets-inl.h"
#include "hwy/foreach_target.h"
#include "common/kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace mf {
namespace HWY_NAMESPACE {
namespace {

constexpr size_t kFolded = 8;  // lanes after j and j + 8 are added

using F64 = hn::CappedTag<double, kFolded>;
using U64 = hn::RebindToUnsigned<F64>;
using V64 = hn::Vec<F64>;
constexpr size_t kLanes64 = hn::MaxLanes(F64());
constexpr size_t kVectors64 = kFolded / kLanes64;
// Independent FMA chains hide the latency of FMA; more than the registers hold would spill.
constexpr size_t kGroup = kLanes == kStep ? 8 : 4;

/// The 16 lanes of a block, lanes j and j + 8 added, as doubles.
HWY_INLINE void Fold(const V32 (&lanes)[kVectors], V64 (&out)[kVectors64]) {
#if HWY_TARGET == HWY_SCALAR
  for (size_t j = 0; j < kFolded; ++j) out[j] = hn::PromoteTo(F64(), lanes[j] + lanes[j + kFolded]);
#else
  const hn::Half<F32> half;
  if constexpr (kVectors == 1) {
    out[0] =
        hn::PromoteTo(F64(), hn::Add(hn::LowerHalf(half, lanes[0]), hn::UpperHalf(half, lanes[0])));
  } else {
    for (size_t v = 0; v < kVectors / 2; ++v) {
      const V32 sum = hn::Add(lanes[v], lanes[v + kVectors / 2]);
      out[2 * v] = hn::PromoteTo(F64(), hn::LowerHalf(half, sum));
      out[2 * v + 1] = hn::PromoteTo(F64(), hn::UpperHalf(half, sum));
    }
  }
#endif
}

/// How the next group's rows are fetched while a block is summed, always evenly: a line of every
/// row at each step (1.1 x from memory, tau 13), or whole runs of a row's lines (1.1 x from the
/// third-level cache, tau 8), beside all of a block's lines at its begin.
enum class Fetch { kNone, kLines, kRuns };

/// One 16-column step of kCount pairs. `dy` is at the step's first column.
template <size_t kCount, class T>
HWY_INLINE void AddStep(const T* const (&rows)[kCount], size_t column, const float* dy,
                        V32 (&sums)[kCount][kVectors]) {
  for (size_t v = 0; v < kVectors; ++v) {
    const V32 gradient = LoadAny(dy + v * kLanes);
    for (size_t i = 0; i < kCount; ++i) {
      sums[i][v] = Fma(LoadRow(rows[i] + column + v * kLanes), gradient, sums[i][v]);
    }
  }
}

/// Step `step` of `steps` of a block fetches its share of the next group's lines of that block.
template <Fetch kFetch, size_t kCount, class T>
HWY_INLINE void FetchNext(const T* const (&next)[kCount], const ColumnRange& block, size_t step,
                          size_t steps) {
  const size_t begin = static_cast<size_t>(block.begin), end = static_cast<size_t>(block.end);
  const size_t column = begin + step * kStep;
  if (kFetch == Fetch::kLines && column % kLineNumbers<T> == 0) {
    for (size_t i = 0; i < kCount; ++i) PrefetchLine(next[i] + column);
  }
  if (kFetch == Fetch::kRuns) {
    for (size_t i = kCount * step / steps; i < kCount * (step + 1) / steps; ++i) {
      for (size_t c = begin; c < end; c += kLineNumbers<T>) PrefetchLine(next[i] + c);
    }
  }
}

/// The lane sums of kCount pairs over one block, `next` being fetched meanwhile. `dy` is the
/// token's column 0.
template <Fetch kFetch, size_t kCount, class T>
HWY_INLINE void BlockLanes(const T* const (&rows)[kCount], const T* const (&next)[kCount],
                           const ColumnRange& block, const void* dy,
                           V32 (&sums)[kCount][kVectors]) {
  for (size_t i = 0; i < kCount; ++i) {
    for (size_t v = 0; v < kVectors; ++v) sums[i][v] = hn::Zero(F32());
  }
  size_t c = static_cast<size_t>(block.begin);
  const size_t end = static_cast<size_t>(block.end);
  const size_t steps = (end - c + kStep - 1) / kStep;
  for (size_t step = 0; c + kStep <= end; c += kStep, ++step) {
    FetchNext<kFetch>(next, block, step, steps);
    AddStep(rows, c, FloatsAt(dy, c), sums);
  }
  if (c < end) {
    FetchNext<kFetch>(next, block, steps - 1, steps);
    const PaddedStep tail(FloatsAt(dy, c), end - c);
    AddStep(rows, c, tail.values, sums);
  }
}

/// The definition, a number at a time: for sums that the fast way cannot hold.
template <class T>
int64_t ExactDot(const T* row, std::span<const ColumnRange> blocks, const void* dy, int exponent) {
  constexpr double kLimit = 0x1p53;
  const double scale = std::ldexp(1.0, 40 - exponent);
  int64_t dot = 0;
  for (const ColumnRange& block : blocks) {
    const T* const rows[1] = {row};
    V32 sums[1][kVectors];
    BlockLanes<Fetch::kNone>(rows, rows, block, dy, sums);
    float lanes[kStep];
    for (size_t v = 0; v < kVectors; ++v) hn::StoreU(sums[0][v], F32(), lanes + v * kLanes);
    for (size_t j = 0; j < kFolded; ++j) {
      const double x = static_cast<double>(lanes[j] + lanes[j + kFolded]) * scale;
      if (!(std::abs(x) <= kLimit)) return kDotNotFinite;
      dot = AddDots(dot, static_cast<int64_t>(std::nearbyint(x)));
    }
  }
  return dot;
}

/// What rounds a double to the fixed point of a token.
struct FixedPoint {
  double rounder;        // 1.5 * 2^52 units
  double squares_limit;  // a sum of squares below this has no part of 2^51 units or more
  explicit FixedPoint(int exponent)
      : rounder(std::ldexp(1.5, 12 + exponent)),
        squares_limit(std::ldexp(1.0, 21 + 2 * exponent)) {}
};

/// The dots of kGroup pairs of one token over `blocks`, `next` being fetched meanwhile.
template <Fetch kFetch, class T>
HWY_INLINE void GroupDots(const T* const (&rows)[kGroup], const T* const (&next)[kGroup],
                          std::span<const ColumnRange> blocks, const void* dy, int exponent,
                          int64_t (&dots)[kGroup]) {
  const FixedPoint fixed(exponent);
  const V64 rounder = hn::Set(F64(), fixed.rounder);
  hn::Vec<U64> units[kGroup][kVectors64];
  V64 squares[2] = {hn::Zero(F64()), hn::Zero(F64())};
  // Every block adds the constant's bits once to each lane: they are taken off in advance, which
  // wraps, so that the final numbers are small and their sum over lanes does not.
  uint64_t rounder_bits;
  std::memcpy(&rounder_bits, &fixed.rounder, sizeof(rounder_bits));
  const auto start = hn::Set(U64(), 0 - rounder_bits * blocks.size());
  for (size_t i = 0; i < kGroup; ++i) {
    for (size_t v = 0; v < kVectors64; ++v) units[i][v] = start;
  }
  for (const ColumnRange& block : blocks) {
    V32 sums[kGroup][kVectors];
    BlockLanes<kFetch>(rows, next, block, dy, sums);
    for (size_t i = 0; i < kGroup; ++i) {
      V64 folded[kVectors64];
      Fold(sums[i], folded);
      for (size_t v = 0; v < kVectors64; ++v) {
        squares[i % 2] = Fma(folded[v], folded[v], squares[i % 2]);
        const V64 rounded = hn::Add(folded[v], rounder);
        units[i][v] = hn::Add(units[i][v], hn::BitCast(U64(), rounded));
      }
    }
  }
  const V64 all = hn::SumOfLanes(F64(), hn::Add(squares[0], squares[1]));
  if (!(hn::GetLane(all) < fixed.squares_limit)) [[unlikely]] {
    for (size_t i = 0; i < kGroup; ++i) dots[i] = ExactDot(rows[i], blocks, dy, exponent);
    return;
  }
  for (size_t i = 0; i < kGroup; ++i) {
    hn::Vec<U64> sum = units[i][0];
    for (size_t v = 1; v < kVectors64; ++v) sum = hn::Add(sum, units[i][v]);
    dots[i] = static_cast<int64_t>(hn::GetLane(hn::SumOfLanes(U64(), sum)));
  }
}

/// The rows of a group, the last one repeated where the group is not full.
template <class T>
HWY_INLINE void LoadRows(const PairBatch& batch, size_t pair, size_t token,
                         const T* (&rows)[kGroup]) {
  for (size_t i = 0; i < kGroup; ++i) {
    const size_t at = std::min(pair + i, batch.pairs - 1) * batch.tokens + token;
    rows[i] = static_cast<const T*>(batch.rows[at]);
  }
}

struct DotsCall {
  const PairBatch& batch;
  std::span<const ColumnRange> blocks;
  const void* dy;
  size_t dy_stride;
  const int8_t* exponents;
  int64_t* dots;
};

/// One group and token.
template <Fetch kFetch, class T>
HWY_INLINE void DotsOfToken(const DotsCall& call, size_t pair, size_t token,
                            const T* const (&rows)[kGroup], const T* const (&next)[kGroup]) {
  const size_t count = std::min(kGroup, call.batch.pairs - pair);
  int64_t dots[kGroup];
  if (call.exponents[token] == kNotFinite) {
    std::fill(dots, dots + kGroup, kDotNotFinite);
  } else {
    GroupDots<kFetch>(rows, next, call.blocks, FloatsAt(call.dy, token * call.dy_stride),
                      call.exponents[token], dots);
  }
  for (size_t i = 0; i < count; ++i) {
    call.dots[(pair + i) * call.batch.tokens + token] = dots[i];
  }
}

/// A token at a time: for tables that do not stay in cache.
template <class T>
void TokenMajor(const DotsCall& call, size_t token_begin, size_t token_end) {
  const T* buffers[2][kGroup];
  size_t turn = 0;
  LoadRows(call.batch, 0, token_begin, buffers[0]);
  for (size_t token = token_begin; token < token_end; ++token) {
    for (size_t pair = 0; pair < call.batch.pairs; pair += kGroup) {
      const bool wraps = pair + kGroup >= call.batch.pairs;
      const size_t next_token = std::min(wraps ? token + 1 : token, token_end - 1);
      LoadRows(call.batch, wraps ? 0 : pair + kGroup, next_token, buffers[turn ^ 1]);
      DotsOfToken<Fetch::kLines>(call, pair, token, buffers[turn], buffers[turn ^ 1]);
      turn ^= 1;
    }
  }
}

/// A group of tables at a time, which stay in cache while all tokens use them.
template <class T>
void TableMajor(const DotsCall& call, size_t token_begin, size_t token_end) {
  for (size_t pair = 0; pair < call.batch.pairs; pair += kGroup) {
    const T* buffers[2][kGroup];
    size_t turn = 0;
    LoadRows(call.batch, pair, token_begin, buffers[0]);
    for (size_t token = token_begin; token < token_end; ++token) {
      LoadRows(call.batch, pair, std::min(token + 1, token_end - 1), buffers[turn ^ 1]);
      DotsOfToken<Fetch::kRuns>(call, pair, token, buffers[turn], buffers[turn ^ 1]);
      turn ^= 1;
    }
  }
}

template <class T>
void DotRows(const DotsCall& call, size_t token_begin, size_t token_end) {
  if (GroupStaysInCache(call.batch, token_begin, token_end, kGroup)) {
    TableMajor<T>(call, token_begin, token_end);
  } else {
    TokenMajor<T>(call, token_begin, token_end);
  }
}

void DotTokens(const PairBatch& batch, size_t token_begin, size_t token_end,
               std::span<const ColumnRange> blocks, const void* dy, size_t dy_stride,
               const int8_t* exponents, int64_t* dots) {
  const DotsCall call{batch, blocks, dy, dy_stride, exponents, dots};
  if (batch.type == RowType::kBf16) {
    DotRows<uint16_t>(call, token_begin, token_end);
  } else {
    DotRows<float>(call, token_begin, token_end);
  }
}

/// The sum of |dy| in double, lane j of 8 adding columns = j mod 8.
double SumAbsolute(const float* dy, size_t columns) {
  const hn::Rebind<float, F64> narrow;
  V64 sums[kVectors64];
  for (size_t v = 0; v < kVectors64; ++v) sums[v] = hn::Zero(F64());
  const auto add = [&](const float* at) HWY_ATTR {
    for (size_t v = 0; v < kVectors64; ++v) {
      const auto part = hn::LoadU(narrow, at + v * kLanes64);
      sums[v] = hn::Add(sums[v], hn::Abs(hn::PromoteTo(F64(), part)));
    }
  };
  size_t c = 0;
  for (; c + kFolded <= columns; c += kFolded) add(dy + c);
  if (c < columns) add(PaddedStep(dy + c, columns - c).values);
  double lanes[kFolded];
  for (size_t v = 0; v < kVectors64; ++v) hn::StoreU(sums[v], F64(), lanes + v * kLanes64);
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace mf
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mf {
HWY_EXPORT(DotTokens);
HWY_EXPORT(SumAbsolute);

void PairDots(const PairBatch& batch, size_t token_begin, size_t token_end,
              std::span<const ColumnRange> blocks, const void* dy, size_t dy_stride,
              const int8_t* exponents, int64_t* dots) {
  if (token_begin >= token_end || batch.pairs == 0) return;
  if (blocks.empty()) {
    for (size_t p = 0; p < batch.pairs; ++p) {
      for (size_t t = token_begin; t < token_end; ++t) {
        dots[p * batch.tokens + t] = exponents[t] == kNotFinite ? kDotNotFinite : 0;
      }
    }
    return;
  }
  HWY_DYNAMIC_DISPATCH(DotTokens)
  (batch, token_begin, token_end, blocks, dy, dy_stride, exponents, dots);
}

float DotValue(int64_t dot, int8_t exponent) {
  if (dot == kDotNotFinite || exponent == kNotFinite) return std::nanf("");
  return static_cast<float>(std::ldexp(static_cast<double>(dot), exponent - 40));
}

int8_t DotExponent(const float* dy, size_t columns) {
  constexpr int kExponentMin = -80;
  const double sum = HWY_DYNAMIC_DISPATCH(SumAbsolute)(dy, columns);
  if (!(sum <= 0x1p127)) return kNotFinite;
  int exponent = 0;
  const double fraction =
      std::frexp(sum, &exponent);  // sum = fraction * 2^exponent, 1/2 <= fraction
  if (sum == 0) return kExponentMin;
  if (fraction == 0.5) --exponent;  // a power of two is its own ceiling
  return static_cast<int8_t>(std::max(exponent, kExponentMin));
}
}  // namespace mf
#endif
