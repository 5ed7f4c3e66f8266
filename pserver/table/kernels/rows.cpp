#include "pserver/table/kernels/rows.h"

// The order of these matters: targets, then this file once per target.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "pserver/table/kernels/rows.cpp"
#include "common/kernels/targets-inl.h"
#include "hwy/foreach_target.h"
#include "common/kernels/simd-inl.h"
#include "pserver/table/kernels/weights-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace mf {
namespace HWY_NAMESPACE {
namespace {

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
HWY_EXPORT(Scale);
HWY_EXPORT(ScaleRow);
HWY_EXPORT(RoundScaled);
HWY_EXPORT(SumSquares);

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
