// dL/drow = sum of weight * dL/dy over the tokens that met the row (eq. 7): a column chunk of the
// sum stays in registers while the group's tokens stream by.
#include <algorithm>
#include <cstdint>

#include "common/kernels/pairs.h"

// The order of these matters: targets, then this file once per target.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/kernels/row_gradients.cpp"
#include "common/kernels/targets-inl.h"
#include "hwy/foreach_target.h"
#include "common/kernels/simd-inl.h"
#include "hwy/cache_control.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace mf {
namespace HWY_NAMESPACE {
namespace {

constexpr size_t kAccumulators = 8;  // vectors of a row's gradient held in registers
constexpr size_t kRowsAhead = 4;     // rows that are added to are fetched this many groups ahead
constexpr size_t kLineBytes = 64;

/// What becomes of a finished sum.
enum class Write { kAdd, kOverwrite, kStream };

/// The tokens of one group.
struct Group {
  const uint32_t* tokens;
  const float* weights;
  size_t count;
};

template <size_t kCount>
HWY_INLINE void Finish(const V32 (&sum)[kCount], Write write, float* dst) {
  if (write == Write::kStream) {
    for (size_t v = 0; v < kCount; ++v) hn::Stream(sum[v], F32(), dst + v * kLanes);
    return;
  }
  for (size_t v = 0; v < kCount; ++v) {
    float* at = dst + v * kLanes;
    hn::StoreU(write == Write::kAdd ? hn::Add(hn::LoadU(F32(), at), sum[v]) : sum[v], F32(), at);
  }
}

/// kCount vectors at column `c`.
template <size_t kCount>
HWY_INLINE void AddGroup(const Group& group, size_t c, const void* dy, size_t dy_stride,
                         Write write, float* dst) {
  V32 sum[kCount];
  for (size_t v = 0; v < kCount; ++v) sum[v] = hn::Zero(F32());
  for (size_t i = 0; i < group.count; ++i) {
    const float* gradient = FloatsAt(dy, group.tokens[i] * dy_stride + c);
    const V32 weight = hn::Set(F32(), group.weights[i]);
    for (size_t v = 0; v < kCount; ++v) {
      sum[v] = Fma(weight, LoadAny(gradient + v * kLanes), sum[v]);
    }
  }
  Finish(sum, write, dst + c);
}

/// The last columns, fewer than a step: dy is not read beyond them, dst gets zeros behind them.
HWY_INLINE void AddGroupTail(const Group& group, size_t c, size_t columns, const void* dy,
                             size_t dy_stride, Write write, float* dst) {
  V32 sum[kVectors];
  for (size_t v = 0; v < kVectors; ++v) sum[v] = hn::Zero(F32());
  for (size_t i = 0; i < group.count; ++i) {
    const PaddedStep gradient(FloatsAt(dy, group.tokens[i] * dy_stride + c), columns);
    const V32 weight = hn::Set(F32(), group.weights[i]);
    for (size_t v = 0; v < kVectors; ++v) {
      sum[v] = Fma(weight, hn::LoadU(F32(), gradient.values + v * kLanes), sum[v]);
    }
  }
  Finish(sum, write, dst + c);
  // A weight that is not finite has made NaNs of the padding.
  std::fill(dst + c + columns, dst + c + kStep, 0.0f);
}

void Accumulate(const RowGroups& groups, size_t group_begin, size_t group_end, size_t column_begin,
                size_t column_end, const void* dy, size_t dy_stride, float* const* dst,
                const uint8_t* first, FirstWrites writes) {
  const auto group_at = [&](size_t g) {
    const size_t begin = groups.begin[g];
    return Group{groups.token.data() + begin, groups.weight.data() + begin,
                 groups.begin[g + 1] - begin};
  };
  const bool stream = writes == FirstWrites::kAroundCaches;
  // Whole rows of a group at a time: runs of dy and of dst are as long as they can be.
  const size_t full_end = column_begin + (column_end - column_begin) / kStep * kStep;
  for (size_t g = group_begin; g < group_end; ++g) {
    const Group group = group_at(g);
    const bool aligned = reinterpret_cast<uintptr_t>(dst[g]) % kLineBytes == 0;
    const Write write = first[g] == 0       ? Write::kAdd
                        : stream && aligned ? Write::kStream
                                            : Write::kOverwrite;
    if (g + kRowsAhead < group_end && first[g + kRowsAhead] == 0) {
      for (size_t c = column_begin; c < full_end; c += kLineNumbers<float>) {
        PrefetchLine(dst[g + kRowsAhead] + c);
      }
    }
    size_t c = column_begin;
    for (; c + kAccumulators * kLanes <= full_end; c += kAccumulators * kLanes) {
      AddGroup<kAccumulators>(group, c, dy, dy_stride, write, dst[g]);
    }
    for (; c < full_end; c += kStep) {
      AddGroup<kVectors>(group, c, dy, dy_stride, write, dst[g]);
    }
  }
  const size_t c = full_end;
  if (c < column_end) {
    for (size_t g = group_begin; g < group_end; ++g) {
      const Write write = first[g] != 0 ? Write::kOverwrite : Write::kAdd;
      AddGroupTail(group_at(g), c, column_end - c, dy, dy_stride, write, dst[g]);
    }
  }
  if (stream) hwy::FlushStream();  // before another thread is told that the sums are there
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace mf
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mf {
HWY_EXPORT(Accumulate);

void AccumulateRows(const RowGroups& groups, size_t group_begin, size_t group_end,
                    size_t column_begin, size_t column_end, const void* dy, size_t dy_stride,
                    float* const* dst, const uint8_t* first, FirstWrites writes) {
  HWY_DYNAMIC_DISPATCH(Accumulate)
  (groups, group_begin, group_end, column_begin, column_end, dy, dy_stride, dst, first, writes);
}

FirstWrites FasterFirstWrites(uint64_t table_bytes, uint64_t tables, bool read_next) {
  // Sums and norms of a contribution on 2 cores with 32 MiB of third-level cache. Read after all
  // tables: 64 x 1.9 MiB 1.2-1.4 x, 16 x 10 MiB 1.2-1.3 x, 4 x 1.9 MiB 0.6-0.8 x. Read table by
  // table: 10 MiB a table 1.2 x, 1.9 MiB 0.9-1.05 x (64 of them) and 0.6-0.8 x (4 of them).
  constexpr uint64_t kAllBytes = uint64_t{32} << 20, kTableBytes = uint64_t{4} << 20;
  const bool far = table_bytes * tables > kAllBytes && (!read_next || table_bytes > kTableBytes);
  return far ? FirstWrites::kAroundCaches : FirstWrites::kCached;
}
}  // namespace mf
#endif
