#include "worker/compute/cpu/softmax.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "worker/compute/cpu/softmax.cpp"
#include <algorithm>
#include <cmath>
#include <limits>

#include "hwy/foreach_target.h"  // IWYU pragma: keep; includes this file once per instruction set
#include "worker/compute/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mf::HWY_NAMESPACE {
namespace {

float Maximum(const float* x, size_t count) {
  const Floats d;
  const size_t lanes = hn::Lanes(d);
  Vector best = hn::Set(d, -std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) best = hn::Max(best, hn::LoadU(d, x + i));
  float result = hn::GetLane(hn::MaxOfLanes(d, best));
  for (; i < count; ++i) result = std::max(result, x[i]);
  return result;
}

/// The first `valid` of `count` <= Lanes lanes; zeros in the others.
HWY_INLINE Vector Keep(Floats d, Vector x, size_t valid) {
  return valid >= hn::Lanes(d) ? x : hn::IfThenElseZero(hn::FirstN(d, valid), x);
}

/// x -> exp(x - shift) where `store`, for the first `valid` of `count` numbers, 0 for the rest of
/// the last vector; returns the sum.
template <bool store, class T>
float SumExp(T* x, size_t valid, size_t count, float shift) {
  const Floats d;
  const size_t lanes = hn::Lanes(d);
  const Vector by = hn::Set(d, shift);
  Vector sum = hn::Zero(d);
  for (size_t i = 0; i < valid; i += lanes) {
    const size_t part = std::min(lanes, count - i);
    const Vector e =
        Keep(d, ExpOrNaN(d, hn::Sub(LoadPart(d, x + i, part), by)), std::min(part, valid - i));
    if constexpr (store) StorePart(d, e, x + i, part);
    sum = hn::Add(sum, e);
  }
  return SumLanes(d, sum);
}

void AttentionForward(const ScoreTile& tile, float* scores, float* inverse_sums, float* log_sums,
                      size_t log_stride) {
  for (size_t r = 0; r < tile.rows; ++r) {
    float* row = scores + r * tile.stride;
    const size_t valid = tile.valid + r;
    const float maximum = Maximum(row, valid);
    const float sum = SumExp<true>(row, valid, tile.columns, maximum);
    std::fill(row + valid, row + tile.columns, 0.0f);
    inverse_sums[r] = 1.0f / sum;
    log_sums[r * log_stride] = maximum + std::log(sum);
  }
}

void Products(const float* a, const float* b, size_t rows, size_t width, size_t stride,
              float* products) {
  const Floats d;
  const size_t lanes = hn::Lanes(d);
  for (size_t r = 0; r < rows; ++r, a += stride, b += stride) {
    Vector sum = hn::Zero(d);
    for (size_t i = 0; i < width; i += lanes) {
      const size_t part = std::min(lanes, width - i);
      sum = hn::MulAdd(LoadPart(d, a + i, part), LoadPart(d, b + i, part), sum);
    }
    products[r] = SumLanes(d, sum);
  }
}

void AttentionBackward(const ScoreTile& tile, const float* log_sums, size_t log_stride,
                       const float* products, float* scores, float* dp) {
  const Floats d;
  const size_t lanes = hn::Lanes(d);
  for (size_t r = 0; r < tile.rows; ++r) {
    float* row = scores + r * tile.stride;
    float* drow = dp + r * tile.stride;
    const size_t valid = tile.valid + r;
    const Vector shift = hn::Set(d, log_sums[r * log_stride]);
    const Vector product = hn::Set(d, products[r]);
    for (size_t i = 0; i < valid; i += lanes) {
      const size_t part = std::min(lanes, tile.columns - i);
      const size_t kept = std::min(part, valid - i);
      const Vector p = Keep(d, ExpOrNaN(d, hn::Sub(LoadPart(d, row + i, part), shift)), kept);
      const Vector dpv = LoadPart(d, drow + i, part);
      const Vector ds = Keep(d, hn::Mul(p, hn::Sub(dpv, product)), kept);
      StorePart(d, p, row + i, part);
      StorePart(d, ds, drow + i, part);
    }
    std::fill(row + valid, row + tile.columns, 0.0f);
    std::fill(drow + valid, drow + tile.columns, 0.0f);
  }
}

double LogProbabilityOf(const float* logits, size_t count, size_t target) {
  const float maximum = Maximum(logits, count);
  const double sum = SumExp<false>(logits, count, count, maximum);
  return static_cast<double>(logits[target]) - maximum - std::log(sum);
}

double CrossEntropy(float* logits, size_t count, size_t target, float scale) {
  const Floats d;
  const size_t lanes = hn::Lanes(d);
  const float maximum = Maximum(logits, count);
  const float at_target = logits[target];
  const float sum = SumExp<true>(logits, count, count, maximum);
  const Vector factor = hn::Set(d, scale / sum);
  for (size_t i = 0; i < count; i += lanes) {
    const size_t part = std::min(lanes, count - i);
    StorePart(d, hn::Mul(LoadPart(d, logits + i, part), factor), logits + i, part);
  }
  logits[target] -= scale;
  return static_cast<double>(at_target) - maximum - std::log(static_cast<double>(sum));
}

}  // namespace
}  // namespace mf::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mf {
HWY_EXPORT(AttentionForward);
HWY_EXPORT(AttentionBackward);
HWY_EXPORT(Products);
HWY_EXPORT(LogProbabilityOf);
HWY_EXPORT(CrossEntropy);

void ExpRows(const ScoreTile& tile, float* scores, float* inverse_sums, float* log_sums,
             size_t log_stride) {
  HWY_DYNAMIC_DISPATCH(AttentionForward)(tile, scores, inverse_sums, log_sums, log_stride);
}

void ExpBackwardRows(const ScoreTile& tile, const float* log_sums, size_t log_stride,
                     const float* products, float* scores, float* dp) {
  HWY_DYNAMIC_DISPATCH(AttentionBackward)
  (tile, log_sums, log_stride, products, scores, dp);
}

void RowProducts(const float* a, const float* b, size_t rows, size_t width, size_t stride,
                 float* products) {
  HWY_DYNAMIC_DISPATCH(Products)(a, b, rows, width, stride, products);
}

double LogProbability(const float* logits, size_t count, size_t target) {
  return HWY_DYNAMIC_DISPATCH(LogProbabilityOf)(logits, count, target);
}

double CrossEntropyRow(float* logits, size_t count, size_t target, float scale) {
  return HWY_DYNAMIC_DISPATCH(CrossEntropy)(logits, count, target, scale);
}

}  // namespace mf
#endif  // HWY_ONCE
