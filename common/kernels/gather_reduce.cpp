// y[t] = sum of weight * row: the forward pass of a memory layer (eq. 5). An element's sum is a chain of
// FMAs by rising pair whatever the loop order, so the orders below differ in speed only.
#include <algorithm>

#include "common/kernels/pairs.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/kernels/gather_reduce.cpp"
#include "common/kernels/targets-inl.h"
#include "hwy/foreach_target.h"
#include "common/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mf {
namespace HWY_NAMESPACE {
namespace {

constexpr size_t kGroup = 8;          // rows in flight: enough misses to fill a core's line buffers
constexpr size_t kAccumulators = 8;   // vectors of y held in registers while the rows stream by
constexpr size_t kLine = 16;          // floats in a cache line

/// The rows that one token meets in a group of pairs, with their weights.
struct TokenRows {
  size_t count = 0;
  const float* rows[kGroup];
  float weights[kGroup];
};

HWY_INLINE void LoadTokenRows(const PairBatch& batch, size_t pair, size_t count, size_t token,
                              TokenRows& out) {
  out.count = count;
  for (size_t i = 0; i < count; ++i) {
    const size_t at = (pair + i) * batch.tokens + token;
    out.rows[i] = batch.rows[at];
    out.weights[i] = ReadFloat(FloatsAt(batch.weights, at));
  }
}

enum class Start { kZero, kAdd };
enum class Fetch { kNone, kNext };

/// kCount vectors of y at column `c`, all rows of the group, the next group's lines fetched meanwhile.
template <size_t kCount, Start kStart, Fetch kFetch>
HWY_INLINE void AddColumns(const TokenRows& now, const TokenRows& next, size_t c, float* y) {
  V32 sum[kCount];
  for (size_t v = 0; v < kCount; ++v) {
    sum[v] = kStart == Start::kZero ? hn::Zero(F32()) : hn::LoadU(F32(), y + v * kLanes);
  }
  for (size_t i = 0; i < now.count; ++i) {
    if constexpr (kFetch == Fetch::kNext) {
      for (size_t f = 0; f < kCount * kLanes; f += kLine) PrefetchLine(next.rows[i] + c + f);
    }
    const V32 weight = hn::Set(F32(), now.weights[i]);
    const float* row = now.rows[i] + c;
    for (size_t v = 0; v < kCount; ++v) {
      sum[v] = Fma(weight, hn::LoadU(F32(), row + v * kLanes), sum[v]);
    }
  }
  for (size_t v = 0; v < kCount; ++v) hn::StoreU(sum[v], F32(), y + v * kLanes);
}

/// One token's y at columns [begin, end) plus its rows of the group. `y` is the token's column 0.
template <Start kStart, Fetch kFetch>
HWY_INLINE void AddRows(const TokenRows& now, const TokenRows& next, size_t begin, size_t end,
                        float* y) {
  size_t c = begin;
  for (; c + kAccumulators * kLanes <= end; c += kAccumulators * kLanes) {
    AddColumns<kAccumulators, kStart, kFetch>(now, next, c, y + c);
  }
  for (; c + kStep <= end; c += kStep) {
    AddColumns<kVectors, kStart, kFetch>(now, next, c, y + c);
  }
  if (c < end) {
    PaddedStep tail;
    if constexpr (kStart == Start::kAdd) tail = PaddedStep(y + c, end - c);
    AddColumns<kVectors, kStart, kFetch>(now, next, c, tail.values);
    tail.StoreTo(y + c, end - c);
  }
}

template <Fetch kFetch>
HWY_INLINE void AddRowsFrom(size_t pair, const TokenRows& now, const TokenRows& next, size_t begin,
                            size_t end, float* y) {
  if (pair == 0) {
    AddRows<Start::kZero, kFetch>(now, next, begin, end, y);
  } else {
    AddRows<Start::kAdd, kFetch>(now, next, begin, end, y);
  }
}

/// A token at a time, whole rows: for tables that do not stay in cache, where long runs of a row and
/// misses of many rows in flight matter, and y stays in the first-level cache.
void TokenMajor(const PairBatch& batch, size_t token_begin, size_t token_end, size_t columns, float* y,
                size_t y_stride) {
  TokenRows buffers[2];
  size_t turn = 0;
  LoadTokenRows(batch, 0, std::min(kGroup, batch.pairs), token_begin, buffers[0]);
  for (size_t token = token_begin; token < token_end; ++token) {
    for (size_t pair = 0; pair < batch.pairs; pair += kGroup) {
      const TokenRows& now = buffers[turn];
      TokenRows& next = buffers[turn ^ 1];
      turn ^= 1;
      const bool wraps = pair + kGroup >= batch.pairs;
      const size_t next_pair = wraps ? 0 : pair + kGroup;
      const size_t next_token = wraps ? token + 1 : token;
      if (next_token < token_end) {
        LoadTokenRows(batch, next_pair, std::min(kGroup, batch.pairs - next_pair), next_token, next);
        for (size_t i = next.count; i < now.count; ++i) next.rows[i] = next.rows[0];
      } else {
        next = now;
      }
      AddRowsFrom<Fetch::kNext>(pair, now, next, 0, columns, y + token * y_stride);
    }
  }
}

/// A group of tables at a time, and of those a slice of columns that stays in the second-level cache
/// while all tokens use it.
void TableMajor(const PairBatch& batch, size_t token_begin, size_t token_end, size_t columns,
                size_t slice, float* y, size_t y_stride) {
  for (size_t begin = 0; begin < columns; begin += slice) {
    const size_t end = std::min(columns, begin + slice);
    for (size_t pair = 0; pair < batch.pairs; pair += kGroup) {
      const size_t count = std::min(kGroup, batch.pairs - pair);
      for (size_t token = token_begin; token < token_end; ++token) {
        TokenRows now;
        LoadTokenRows(batch, pair, count, token, now);
        AddRowsFrom<Fetch::kNone>(pair, now, now, begin, end, y + token * y_stride);
      }
    }
  }
}

/// Bytes over which the rows of one pair lie scattered: an estimate of its table's size.
HWY_INLINE size_t TableBytes(const PairBatch& batch, size_t token_begin, size_t token_end) {
  const auto address = [&](size_t t) { return reinterpret_cast<uintptr_t>(batch.rows[t]); };
  uintptr_t low = address(token_begin), high = low;
  for (size_t t = token_begin + 1; t < token_end; ++t) {
    low = std::min(low, address(t));
    high = std::max(high, address(t));
  }
  return high - low;
}

void ReduceTokens(const PairBatch& batch, size_t token_begin, size_t token_end, size_t columns,
                  float* y, size_t y_stride) {
  // A group's tables in the second-level cache (1 MiB is half of a server core's), in full or cut
  // into slices of at least 128 columns (shorter runs cost more than the cache gives).
  constexpr size_t kCacheBytes = size_t{1} << 20;
  constexpr size_t kSliceMin = 128;
  const size_t group_bytes = kGroup * TableBytes(batch, token_begin, token_end);
  if (group_bytes <= kCacheBytes || columns <= kSliceMin) {
    if (group_bytes <= 4 * kCacheBytes) {
      return TableMajor(batch, token_begin, token_end, columns, columns, y, y_stride);
    }
  } else if (group_bytes / (columns / kSliceMin) <= kCacheBytes) {
    return TableMajor(batch, token_begin, token_end, columns, kSliceMin, y, y_stride);
  }
  TokenMajor(batch, token_begin, token_end, columns, y, y_stride);
}

/// kCount vectors of one pair and token.
template <size_t kCount, Start kStart>
HWY_INLINE void AddRow(V32 weight, const float* row, float* y) {
  for (size_t v = 0; v < kCount; ++v) {
    const V32 sum = kStart == Start::kZero ? hn::Zero(F32()) : hn::LoadU(F32(), y + v * kLanes);
    hn::StoreU(Fma(weight, hn::LoadU(F32(), row + v * kLanes), sum), F32(), y + v * kLanes);
  }
}

template <Start kStart>
void ReducePairGrouped(const PairBatch& batch, size_t pair, const uint32_t* order, size_t column_begin,
                       size_t column_end, float* y, size_t y_stride) {
  constexpr size_t kAhead = 6;  // rows fetched ahead
  const float* const* rows = batch.rows + pair * batch.tokens;
  const float* weights = FloatsAt(batch.weights, pair * batch.tokens);
  const float* fetched = nullptr;
  for (size_t i = 0; i < batch.tokens; ++i) {
    if (i + kAhead < batch.tokens) {
      const float* ahead = rows[order[i + kAhead]];
      if (ahead != fetched) {
        for (size_t c = column_begin; c < column_end; c += kLine) PrefetchLine(ahead + c);
        fetched = ahead;
      }
    }
    const size_t token = order[i];
    const V32 weight = hn::Set(F32(), ReadFloat(FloatsAt(weights, token)));
    const float* row = rows[token];
    float* out = y + token * y_stride;
    size_t c = column_begin;
    for (; c + kAccumulators * kLanes <= column_end; c += kAccumulators * kLanes) {
      AddRow<kAccumulators, kStart>(weight, row + c, out + c);
    }
    for (; c + kStep <= column_end; c += kStep) AddRow<kVectors, kStart>(weight, row + c, out + c);
    if (c < column_end) {
      PaddedStep tail;
      if constexpr (kStart == Start::kAdd) tail = PaddedStep(out + c, column_end - c);
      AddRow<kVectors, kStart>(weight, row + c, tail.values);
      tail.StoreTo(out + c, column_end - c);
    }
  }
}

void ReduceGrouped(const PairBatch& batch, const uint32_t* order, size_t column_begin,
                   size_t column_end, float* y, size_t y_stride) {
  for (size_t pair = 0; pair < batch.pairs; ++pair) {
    const uint32_t* pair_order = order + pair * batch.tokens;
    if (pair == 0) {
      ReducePairGrouped<Start::kZero>(batch, pair, pair_order, column_begin, column_end, y, y_stride);
    } else {
      ReducePairGrouped<Start::kAdd>(batch, pair, pair_order, column_begin, column_end, y, y_stride);
    }
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace mf
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mf {
HWY_EXPORT(ReduceTokens);
HWY_EXPORT(ReduceGrouped);

namespace {
void ClearTokens(size_t token_begin, size_t token_end, size_t column_begin, size_t column_end, float* y,
                 size_t y_stride) {
  for (size_t t = token_begin; t < token_end; ++t) {
    std::fill(y + t * y_stride + column_begin, y + t * y_stride + column_end, 0.0f);
  }
}
}  // namespace

void GatherReduce(const PairBatch& batch, size_t token_begin, size_t token_end, size_t columns,
                  float* y, size_t y_stride) {
  if (token_begin >= token_end || columns == 0) return;
  if (batch.pairs == 0) return ClearTokens(token_begin, token_end, 0, columns, y, y_stride);
  HWY_DYNAMIC_DISPATCH(ReduceTokens)(batch, token_begin, token_end, columns, y, y_stride);
}

void GatherReduceGrouped(const PairBatch& batch, const uint32_t* order, size_t column_begin,
                         size_t column_end, float* y, size_t y_stride) {
  if (column_begin >= column_end) return;
  if (batch.pairs == 0) return ClearTokens(0, batch.tokens, column_begin, column_end, y, y_stride);
  HWY_DYNAMIC_DISPATCH(ReduceGrouped)(batch, order, column_begin, column_end, y, y_stride);
}
}  // namespace mf
#endif
