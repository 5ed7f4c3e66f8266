// dL/dweight of a pair = <row, dL/dy of its token>. A warp takes one token and a run of pairs, and
// reads kFlight of their rows at once.
#include "worker/compute/cuda/kernels/row_code.h"

namespace mf::cuda {
namespace {

constexpr unsigned kWarps = 8;   // tokens a block
constexpr unsigned kFlight = 8;  // rows at once

/// Dots of the warp's token with kFlight rows: `row` of the lane that is number `first` + i of the
/// warp is the i-th. In all lanes.
template <class V>
__device__ inline void Dots(const V* __restrict__ table, uint32_t width, const V* __restrict__ dy,
                            uint32_t row, unsigned first, float (&dots)[kFlight]) {
  const V* rows[kFlight];
#pragma unroll
  for (unsigned i = 0; i < kFlight; ++i) {
    const uint32_t met = __shfl_sync(kAllLanes, row, static_cast<int>(first + i));
    rows[i] = table + static_cast<uint64_t>(met) * width;
    dots[i] = 0.0f;
  }
  for (uint32_t c = LaneOfWarp(); c < width; c += kWarp) {
    V values[kFlight];
#pragma unroll
    for (unsigned i = 0; i < kFlight; ++i) values[i] = rows[i][c];
    const V gradient = dy[c];
#pragma unroll
    for (unsigned i = 0; i < kFlight; ++i) dots[i] = AddDot(values[i], gradient, dots[i]);
  }
#pragma unroll
  for (unsigned i = 0; i < kFlight; ++i) dots[i] = WarpSum(dots[i]);
}

/// Block (x, y): the x-th kWarps tokens, pairs [y * run, (y + 1) * run).
template <class V>
__global__ void __launch_bounds__(kWarps* kWarp)
    PairDotsOfTokens(Pairs pairs, uint32_t pair_count, uint32_t run, const V* __restrict__ table,
                     uint32_t width, const V* __restrict__ dy, float* __restrict__ dweights) {
  const size_t token = static_cast<size_t>(blockIdx.x) * kWarps + WarpOfBlock();
  if (token >= pairs.tokens) return;  // a whole warp, and there is no barrier
  const uint32_t end = min(pair_count, (blockIdx.y + 1) * run);
  for (uint32_t begin = blockIdx.y * run; begin < end; begin += kWarp) {
    // Lanes beyond the end read the last pair's row again; nothing is written for them.
    const uint32_t row = RowOf(pairs, min(begin + LaneOfWarp(), end - 1), token);
    for (unsigned first = 0; first < kWarp && begin + first < end; first += kFlight) {
      float dots[kFlight];
      Dots(table, width, dy + token * width, row, first, dots);
      float mine = 0.0f;
#pragma unroll
      for (unsigned i = 0; i < kFlight; ++i) mine = LaneOfWarp() == i ? dots[i] : mine;
      const uint32_t pair = begin + first + LaneOfWarp();
      if (LaneOfWarp() < kFlight && pair < end) dweights[pair * pairs.tokens + token] = mine;
    }
  }
}

/// How many pairs are done for all tokens before the next ones: those of as many tables as stay in
/// cache together, so that rows come from there (blocks start with x, the tokens, rising fastest).
/// dy is read once more for each run, at most an eighth of the rows' bytes. Where fewer tables fit,
/// rows come from memory whatever the order. A prediction, to be measured.
uint32_t PairsOfRun(const Pairs& pairs, size_t columns) {
  const size_t table_bytes = pairs.rows_per_table * columns * sizeof(float);
  const size_t fit = kCacheBytes / std::max<size_t>(table_bytes, 1) * pairs.probes;
  if (fit < kFlight || fit >= pairs.pairs()) return static_cast<uint32_t>(pairs.pairs());
  return static_cast<uint32_t>(fit / kFlight * kFlight);
}

template <class V>
void Run(cudaStream_t stream, const Pairs& pairs, const float* table, size_t columns,
         const float* dy, float* dweights) {
  const uint32_t run = PairsOfRun(pairs, columns);
  const dim3 blocks(BlocksFor(pairs.tokens, kWarps), BlocksFor(pairs.pairs(), run));
  Launch("PairDots", stream, blocks, kWarps * kWarp, 0, PairDotsOfTokens<V>, pairs, pairs.pairs(),
         run, reinterpret_cast<const V*>(table), columns * sizeof(float) / sizeof(V),
         reinterpret_cast<const V*>(dy), dweights);
}

}  // namespace

void PairDots(cudaStream_t stream, const Pairs& pairs, const float* table, size_t columns,
              const float* dy, float* dweights) {
  CheckSizes(pairs, columns);
  if (pairs.pairs() == 0) return;
  if (ByVectors(columns, {table, dy})) {
    Run<float4>(stream, pairs, table, columns, dy, dweights);
  } else {
    Run<float>(stream, pairs, table, columns, dy, dweights);
  }
}

}  // namespace mf::cuda
