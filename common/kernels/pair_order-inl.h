// Which loop order suits a batch of pairs. Orders differ in speed only: results are the same bits.
#ifndef MF_COMMON_KERNELS_PAIR_ORDER_INL_H_
#define MF_COMMON_KERNELS_PAIR_ORDER_INL_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "common/kernels/pairs.h"

namespace mf {

/// True if `group` tables at a time, tokens inside, is the better order: their rows are met again
/// while they are still near. The first pair's rows stand for a table: how far they lie apart is
/// its size. 8 MiB is 8 tables of tau = 8 and 512 columns twice over; measured there, 35 GB/s
/// against 26 for a token at a time, and the other way round once rows come from memory.
inline bool GroupStaysInCache(const PairBatch& batch, size_t token_begin, size_t token_end,
                              size_t group) {
  constexpr size_t kCacheBytes = size_t{8} << 20;
  uintptr_t low = reinterpret_cast<uintptr_t>(batch.rows[token_begin]), high = low;
  for (size_t t = token_begin + 1; t < token_end; ++t) {
    const uintptr_t row = reinterpret_cast<uintptr_t>(batch.rows[t]);
    low = std::min(low, row);
    high = std::max(high, row);
  }
  return (high - low) <= kCacheBytes / group;
}

}  // namespace mf

#endif  // MF_COMMON_KERNELS_PAIR_ORDER_INL_H_
