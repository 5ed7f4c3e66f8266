// y[t] = sum of weight * row, the forward pass of a memory layer (eq. 5). A block takes a few
// tokens and a slice of the columns; a thread owns one vector of one token's y and reads its part
// of the pairs' rows, kFlight of them at once.
#include "worker/compute/cuda/kernels/row_code.h"

namespace mf::cuda {
namespace {

constexpr unsigned kThreadsLog2 = 8;
constexpr unsigned kThreads = 1u << kThreadsLog2;
constexpr unsigned kFlight = 8;  // rows that a thread has asked for and not yet got
constexpr unsigned kChunk = 64;  // pairs whose rows and weights are staged at a time
// A token's staged numbers begin 4 banks after those of the token before: warps that stage pairs of
// 8 tokens, and warps that read 16 bytes for each of 4 tokens, meet every bank once.
constexpr unsigned kStride = kChunk + 4;
constexpr unsigned kFewestLanes = 8;

/// The block's rows and weights of one chunk: [tokens][kStride] each.
struct Stage {
  uint32_t* rows;
  float* weights;
};

/// Indices and weights are pair-major, so neighbouring threads read neighbouring tokens.
__device__ void Fill(const Pairs& pairs, uint32_t pair_begin, uint32_t pair_count,
                     size_t token_begin, unsigned tokens_log2, const Stage& stage) {
  const unsigned tokens = 1u << tokens_log2;
#pragma unroll 4
  for (unsigned i = threadIdx.x; i < pair_count << tokens_log2; i += kThreads) {
    const unsigned pair = i >> tokens_log2;
    const unsigned slot = i & (tokens - 1);
    const size_t token = token_begin + slot;
    if (token >= pairs.tokens) continue;
    stage.rows[slot * kStride + pair] = RowOf(pairs, pair_begin + pair, token);
    stage.weights[slot * kStride + pair] =
        pairs.weights[(pair_begin + pair) * pairs.tokens + token];
  }
}

/// Adds kFlight pairs; `rows` and `weights` are 16-byte aligned shared memory.
template <class V>
__device__ inline void AddFlight(const uint32_t* rows, const float* weights,
                                 const V* __restrict__ column, uint32_t width, V& sum) {
  V values[kFlight];
  float scales[kFlight];
#pragma unroll
  for (unsigned i = 0; i < kFlight; i += 4) {
    const uint4 row = *reinterpret_cast<const uint4*>(rows + i);
    const float4 weight = *reinterpret_cast<const float4*>(weights + i);
    values[i] = column[static_cast<uint64_t>(row.x) * width];
    values[i + 1] = column[static_cast<uint64_t>(row.y) * width];
    values[i + 2] = column[static_cast<uint64_t>(row.z) * width];
    values[i + 3] = column[static_cast<uint64_t>(row.w) * width];
    scales[i] = weight.x;
    scales[i + 1] = weight.y;
    scales[i + 2] = weight.z;
    scales[i + 3] = weight.w;
  }
#pragma unroll
  for (unsigned i = 0; i < kFlight; ++i) AddScaled(scales[i], values[i], sum);
}

/// Block (x, y): the x-th few tokens, the y-th slice of 2^lanes_log2 vectors of the `width` of a
/// row.
template <class V>
__global__ void __launch_bounds__(kThreads)
    Reduce(Pairs pairs, uint32_t pair_count, const V* __restrict__ table, uint32_t width,
           unsigned lanes_log2, V* __restrict__ y) {
  const unsigned tokens_log2 = kThreadsLog2 - lanes_log2;
  const unsigned tokens = 1u << tokens_log2;
  Stage stage = {SharedMemory<uint32_t>(), nullptr};
  stage.weights = reinterpret_cast<float*>(stage.rows + tokens * kStride);

  const size_t token_begin = static_cast<size_t>(blockIdx.x) * tokens;
  const unsigned slot = threadIdx.x >> lanes_log2;
  const size_t token = token_begin + slot;
  const uint32_t c = (blockIdx.y << lanes_log2) + (threadIdx.x & ((1u << lanes_log2) - 1));
  const bool mine = token < pairs.tokens && c < width;
  const uint32_t* const rows = stage.rows + slot * kStride;
  const float* const weights = stage.weights + slot * kStride;

  V sum = Zero<V>();
  for (uint32_t begin = 0; begin < pair_count; begin += kChunk) {
    const uint32_t count = min(kChunk, pair_count - begin);
    __syncthreads();  // the chunk before has been used
    Fill(pairs, begin, count, token_begin, tokens_log2, stage);
    __syncthreads();
    if (!mine) continue;
    const V* const column = table + c;  // without pairs there need not be a table
    unsigned i = 0;
    for (; i + kFlight <= count; i += kFlight) {
      AddFlight(rows + i, weights + i, column, width, sum);
    }
    for (; i < count; ++i) {
      AddScaled(weights[i], column[static_cast<uint64_t>(rows[i]) * width], sum);
    }
  }
  if (mine) y[token * width + c] = sum;
}

/// log2 of the vectors in a slice: the most that 256 threads can take without leaving more than an
/// eighth of them idle; less where only then the slice of all tables stays in cache.
///
/// Blocks start with x rising fastest, so all tokens are done for one slice before the next begins:
/// what all of them read meanwhile is rows() * slice, not the tables. 64 tables of tau = 8 and 512
/// columns are 32 MiB, too much for half a cache; two slices of 16 MiB are not, and cost one more
/// reading of the indices and weights (5 bytes beside 1024). Tables of which not even slices of a
/// cache line fit come from memory either way: then whole rows. A prediction, to be measured.
template <class V>
unsigned LanesLog2(size_t rows, size_t width) {
  unsigned widest = kThreads;
  const auto idle = [&](unsigned lanes) { return BlocksFor(width, lanes) * lanes - width; };
  while (widest > kFewestLanes && idle(widest) * 8 > width) widest /= 2;
  unsigned lanes = widest;
  const auto bytes = [&](unsigned slice) { return rows * slice * sizeof(V); };
  while (lanes > kFewestLanes && bytes(lanes) > kCacheBytes) lanes /= 2;
  if (bytes(lanes) > kCacheBytes) lanes = widest;
  unsigned log2 = 0;
  while (1u << log2 < lanes) ++log2;
  return log2;
}

template <class V>
void Run(cudaStream_t stream, const Pairs& pairs, const float* table, size_t columns, float* y) {
  const size_t width = columns * sizeof(float) / sizeof(V);
  const unsigned lanes_log2 = LanesLog2<V>(pairs.rows(), width);
  const unsigned tokens = kThreads >> lanes_log2;
  const dim3 blocks(BlocksFor(pairs.tokens, tokens), BlocksFor(width, size_t{1} << lanes_log2));
  Launch("GatherReduce", stream, blocks, kThreads,
         tokens * kStride * (sizeof(uint32_t) + sizeof(float)), Reduce<V>, pairs, pairs.pairs(),
         reinterpret_cast<const V*>(table), width, lanes_log2, reinterpret_cast<V*>(y));
}

}  // namespace

void GatherReduce(cudaStream_t stream, const Pairs& pairs, const float* table, size_t columns,
                  float* y) {
  CheckSizes(pairs, columns);
  if (ByVectors(columns, {table, y})) {
    Run<float4>(stream, pairs, table, columns, y);
  } else {
    Run<float>(stream, pairs, table, columns, y);
  }
}

}  // namespace mf::cuda
