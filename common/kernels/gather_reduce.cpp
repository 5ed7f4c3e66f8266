// y[t] = sum of weight * row: the forward pass of a memory layer (eq. 5). An element's sum is a
// chain of FMAs by rising pair whatever the loop order, so the orders below differ in speed only.
#include <algorithm>

#include "common/kernels/pair_order-inl.h"
#include "common/kernels/pairs.h"

// The order of these matters: targets, then this file once per target.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/kernels/gather_reduce.cpp"
#include "common/kernels/targets-inl.h"
#include "hwy/foreach_target.h"
#include "common/kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace mf {
namespace HWY_NAMESPACE {
namespace {

constexpr size_t kGroup = 8;         // rows in flight: enough misses to fill a core's line buffers
constexpr size_t kAccumulators = 8;  // vectors of y held in registers while the rows stream by
constexpr size_t kLine = 16;         // floats in a cache line

/// The rows that one token meets in a group of pairs, with their weights. Rows from `count` on are
/// valid addresses to prefetch.
struct TokenRows {
  size_t count = 0;
  const float* rows[kGroup];
  float weights[kGroup];
};

HWY_INLINE void LoadTokenRows(const PairBatch& batch, size_t pair, size_t count, size_t token,
                              TokenRows& out) {
  out.count = count;
  for (size_t i = count; i < kGroup; ++i) out.rows[i] = batch.rows[pair * batch.tokens + token];
  for (size_t i = 0; i < count; ++i) {
    const size_t at = (pair + i) * batch.tokens + token;
    out.rows[i] = batch.rows[at];
    out.weights[i] = ReadFloat(FloatsAt(batch.weights, at));
  }
}

enum class Start { kZero, kAdd };

/// kCount vectors of y at column `c`, all rows of the group, the next group's lines fetched
/// meanwhile.
template <size_t kCount, Start kStart>
HWY_INLINE void AddColumns(const TokenRows& now, const TokenRows& next, size_t c, float* y) {
  V32 sum[kCount];
  for (size_t v = 0; v < kCount; ++v) {
    sum[v] = kStart == Start::kZero ? hn::Zero(F32()) : hn::LoadU(F32(), y + v * kLanes);
  }
  for (size_t i = 0; i < now.count; ++i) {
    for (size_t f = 0; f < kCount * kLanes; f += kLine) PrefetchLine(next.rows[i] + c + f);
    const V32 weight = hn::Set(F32(), now.weights[i]);
    const float* row = now.rows[i] + c;
    for (size_t v = 0; v < kCount; ++v) {
      sum[v] = Fma(weight, hn::LoadU(F32(), row + v * kLanes), sum[v]);
    }
  }
  for (size_t v = 0; v < kCount; ++v) hn::StoreU(sum[v], F32(), y + v * kLanes);
}

/// One token's y plus its rows of the group.
template <Start kStart>
HWY_INLINE void AddRows(const TokenRows& now, const TokenRows& next, size_t columns, float* y) {
  size_t c = 0;
  for (; c + kAccumulators * kLanes <= columns; c += kAccumulators * kLanes) {
    AddColumns<kAccumulators, kStart>(now, next, c, y + c);
  }
  for (; c + kStep <= columns; c += kStep) {
    AddColumns<kVectors, kStart>(now, next, c, y + c);
  }
  if (c < columns) {
    PaddedStep tail;
    if constexpr (kStart == Start::kAdd) tail = PaddedStep(y + c, columns - c);
    AddColumns<kVectors, kStart>(now, next, c, tail.values);
    tail.StoreTo(y + c, columns - c);
  }
}

/// Walks (token, group) with the rows of the one after already loaded: `now` and `next` swap at a
/// step.
class RowStream {
 public:
  RowStream(const PairBatch& batch, size_t columns, float* y, size_t y_stride)
      : batch_(batch), columns_(columns), y_(y), y_stride_(y_stride) {}

  void Begin(size_t pair, size_t token) { Load(pair, token, buffers_[turn_]); }

  /// Adds the rows loaded before, which are those of `pair` and `token`; the next call's are named.
  HWY_INLINE void Step(size_t pair, size_t token, size_t next_pair, size_t next_token) {
    const TokenRows& now = buffers_[turn_];
    TokenRows& next = buffers_[turn_ ^ 1];
    turn_ ^= 1;
    Load(next_pair, next_token, next);
    float* y = y_ + token * y_stride_;
    if (pair == 0) {
      AddRows<Start::kZero>(now, next, columns_, y);
    } else {
      AddRows<Start::kAdd>(now, next, columns_, y);
    }
  }

 private:
  HWY_INLINE void Load(size_t pair, size_t token, TokenRows& out) const {
    LoadTokenRows(batch_, pair, std::min(kGroup, batch_.pairs - pair), token, out);
  }

  const PairBatch& batch_;
  const size_t columns_;
  float* const y_;
  const size_t y_stride_;
  TokenRows buffers_[2];
  size_t turn_ = 0;
};

/// A token at a time: for tables that do not stay in cache. y stays in the first-level cache.
void TokenMajor(const PairBatch& batch, size_t token_begin, size_t token_end, RowStream& stream) {
  stream.Begin(0, token_begin);
  for (size_t token = token_begin; token < token_end; ++token) {
    for (size_t pair = 0; pair < batch.pairs; pair += kGroup) {
      const bool wraps = pair + kGroup >= batch.pairs;
      const size_t next_token = std::min(wraps ? token + 1 : token, token_end - 1);
      stream.Step(pair, token, wraps ? 0 : pair + kGroup, next_token);
    }
  }
}

/// A group of tables at a time, which stay in cache while all tokens use them.
void TableMajor(const PairBatch& batch, size_t token_begin, size_t token_end, RowStream& stream) {
  for (size_t pair = 0; pair < batch.pairs; pair += kGroup) {
    stream.Begin(pair, token_begin);
    for (size_t token = token_begin; token < token_end; ++token) {
      stream.Step(pair, token, pair, std::min(token + 1, token_end - 1));
    }
  }
}

void ReduceTokens(const PairBatch& batch, size_t token_begin, size_t token_end, size_t columns,
                  float* y, size_t y_stride) {
  RowStream stream(batch, columns, y, y_stride);
  if (GroupStaysInCache(batch, token_begin, token_end, kGroup)) {
    TableMajor(batch, token_begin, token_end, stream);
  } else {
    TokenMajor(batch, token_begin, token_end, stream);
  }
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
void ReducePairGrouped(const PairBatch& batch, size_t pair, const uint32_t* order,
                       size_t column_begin, size_t column_end, float* y, size_t y_stride) {
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
      ReducePairGrouped<Start::kZero>(batch, pair, pair_order, column_begin, column_end, y,
                                      y_stride);
    } else {
      ReducePairGrouped<Start::kAdd>(batch, pair, pair_order, column_begin, column_end, y,
                                     y_stride);
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
void ClearTokens(size_t token_begin, size_t token_end, size_t column_begin, size_t column_end,
                 float* y, size_t y_stride) {
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
