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

/// The rows that one token meets in a group of pairs, with their weights. Rows from `count` on are
/// valid addresses to prefetch.
template <class T>
struct TokenRows {
  size_t count = 0;
  const T* rows[kGroup];
  float weights[kGroup];
};

template <class T>
HWY_INLINE void LoadTokenRows(const PairBatch& batch, size_t pair, size_t count, size_t token,
                              TokenRows<T>& out) {
  const auto row = [&](size_t at) { return static_cast<const T*>(batch.rows[at]); };
  out.count = count;
  for (size_t i = count; i < kGroup; ++i) out.rows[i] = row(pair * batch.tokens + token);
  for (size_t i = 0; i < count; ++i) {
    const size_t at = (pair + i) * batch.tokens + token;
    out.rows[i] = row(at);
    out.weights[i] = ReadFloat(FloatsAt(batch.weights, at));
  }
}

enum class Start { kZero, kAdd };

/// kCount vectors of y at column `c`, all rows of the group, the next group's lines fetched
/// meanwhile.
template <size_t kCount, Start kStart, class T>
HWY_INLINE void AddColumns(const TokenRows<T>& now, const TokenRows<T>& next, size_t c, float* y) {
  V32 sum[kCount];
  for (size_t v = 0; v < kCount; ++v) {
    sum[v] = kStart == Start::kZero ? hn::Zero(F32()) : hn::LoadU(F32(), y + v * kLanes);
  }
  for (size_t i = 0; i < now.count; ++i) {
    for (size_t f = 0; f < kCount * kLanes; f += kLineNumbers<T>)
      PrefetchLine(next.rows[i] + c + f);
    const V32 weight = hn::Set(F32(), now.weights[i]);
    const T* row = now.rows[i] + c;
    for (size_t v = 0; v < kCount; ++v) sum[v] = Fma(weight, LoadRow(row + v * kLanes), sum[v]);
  }
  for (size_t v = 0; v < kCount; ++v) hn::StoreU(sum[v], F32(), y + v * kLanes);
}

/// One token's y plus its rows of the group.
template <Start kStart, class T>
HWY_INLINE void AddRows(const TokenRows<T>& now, const TokenRows<T>& next, size_t columns,
                        float* y) {
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
template <class T>
class RowStream {
 public:
  RowStream(const PairBatch& batch, size_t columns, float* y, size_t y_stride)
      : batch_(batch), columns_(columns), y_(y), y_stride_(y_stride) {}

  void Begin(size_t pair, size_t token) { Load(pair, token, buffers_[turn_]); }

  /// Adds the rows loaded before, which are those of `pair` and `token`; the next call's are named.
  HWY_INLINE void Step(size_t pair, size_t token, size_t next_pair, size_t next_token) {
    const TokenRows<T>& now = buffers_[turn_];
    TokenRows<T>& next = buffers_[turn_ ^ 1];
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
  HWY_INLINE void Load(size_t pair, size_t token, TokenRows<T>& out) const {
    LoadTokenRows(batch_, pair, std::min(kGroup, batch_.pairs - pair), token, out);
  }

  const PairBatch& batch_;
  const size_t columns_;
  float* const y_;
  const size_t y_stride_;
  TokenRows<T> buffers_[2];
  size_t turn_ = 0;
};

/// A token at a time: for tables that do not stay in cache. y stays in the first-level cache.
template <class T>
void TokenMajor(const PairBatch& batch, size_t token_begin, size_t token_end,
                RowStream<T>& stream) {
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
template <class T>
void TableMajor(const PairBatch& batch, size_t token_begin, size_t token_end,
                RowStream<T>& stream) {
  for (size_t pair = 0; pair < batch.pairs; pair += kGroup) {
    stream.Begin(pair, token_begin);
    for (size_t token = token_begin; token < token_end; ++token) {
      stream.Step(pair, token, pair, std::min(token + 1, token_end - 1));
    }
  }
}

template <class T>
void ReduceRows(const PairBatch& batch, size_t token_begin, size_t token_end, size_t columns,
                float* y, size_t y_stride) {
  RowStream<T> stream(batch, columns, y, y_stride);
  if (GroupStaysInCache(batch, token_begin, token_end, kGroup)) {
    TableMajor(batch, token_begin, token_end, stream);
  } else {
    TokenMajor(batch, token_begin, token_end, stream);
  }
}

void ReduceTokens(const PairBatch& batch, size_t token_begin, size_t token_end, size_t columns,
                  float* y, size_t y_stride) {
  if (batch.type == RowType::kBf16) {
    ReduceRows<uint16_t>(batch, token_begin, token_end, columns, y, y_stride);
  } else {
    ReduceRows<float>(batch, token_begin, token_end, columns, y, y_stride);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace mf
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mf {
HWY_EXPORT(ReduceTokens);

void GatherReduce(const PairBatch& batch, size_t token_begin, size_t token_end, size_t columns,
                  float* y, size_t y_stride) {
  if (token_begin >= token_end || columns == 0) return;
  if (batch.pairs == 0) {
    for (size_t t = token_begin; t < token_end; ++t) std::fill_n(y + t * y_stride, columns, 0.0f);
    return;
  }
  HWY_DYNAMIC_DISPATCH(ReduceTokens)(batch, token_begin, token_end, columns, y, y_stride);
}
}  // namespace mf
#endif
