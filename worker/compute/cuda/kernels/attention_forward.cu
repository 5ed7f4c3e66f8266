// Attention, forward: online softmax (Dao et al., FlashAttention, 2022, and FlashAttention-2,
// 2023).
//
// A block has 128 queries (64 when heads are wide) of one head and goes over the keys up to its
// last query, 64 (32) at a time. A warp has 16 queries for itself, so that softmax needs no barrier
// of the block. Sums of the output stay in fragments. The layout of fragments is opaque, so when a
// row's maximum grows, its factor is written 16 times to a 16 x 16 tile, is loaded as a fragment
// and multiplied in number by number: 1 KiB of shared memory and 8 reads a lane. Against that, the
// sums in shared memory would be read and written for each tile of keys (8 KiB a warp for a
// head_dim of 64), and two passes (maxima first) would compute the scores twice, half as many flops
// again.
//
// Predicted cost of a block and a tile of keys, head_dim 64: 2 * 2 * 128 * 64 * 64 = 2.1 Mflop; 32
// KiB of K and V from L2 or memory, that is 64 flop a byte (32 with 64 queries: 100 TFLOP/s would
// then need 3 TB/s, about all that the L2 of an A100 gives). Shared memory: a warp reads 512 bytes
// for each product of 4096 flop, and its scores are stored, read, written and read: 48 KiB for 262
// kflop, so that at 128 bytes a clock shared memory limits an A100 to two thirds of its TF32 peak.
// 79 KiB a block (48 for wide heads): two blocks on an SM of sm_80 hide each other's loads.
#include "worker/compute/cuda/kernels/attention.h"
#include "worker/compute/cuda/kernels/attention_tiles.cuh"

namespace mf::cuda {
namespace {

using namespace attention;  // the kernels' own vocabulary

template <unsigned kWidth>
struct Tiles {
  static constexpr unsigned kWarps = kWidth <= 64 ? 8 : 4;
  static constexpr unsigned kThreads = kWarps * kWarp;
  static constexpr unsigned kQueries = kWarps * kSide;
  static constexpr unsigned kKeys = kWidth <= 64 ? 64 : 32;
  static constexpr unsigned kKeyStride = kWidth + 4;
  static constexpr unsigned kValueStride = kWidth + 8;
  static constexpr unsigned kScoreStride = kKeys + 4;

  // Offsets in shared memory, in floats. Queries, and in the end the output, lie where keys and
  // values do otherwise.
  static constexpr unsigned kValues = kKeys * kKeyStride;
  static constexpr unsigned kScores = kValues + kKeys * kValueStride;
  static constexpr unsigned kFactors = kScores + kQueries * kScoreStride;
  static constexpr size_t kBytes = (kFactors + kQueries * kNarrowStride) * sizeof(float) + kSlack;
  static_assert(kQueries * kKeyStride <= kScores);
  static_assert(kBytes <= kSharedMost);
  static_assert(kValues % 8 == 0 && kScores % 8 == 0 && kFactors % 8 == 0, "32 bytes");
};

/// Two lanes share a row of the warp's tile: lane and lane + 16, which hold the same numbers here.
struct Row {
  float reference = -INFINITY;  // the largest score so far * scale * log2(e)
  float sum = 0;                // of 2^(score * scale * log2(e) - reference)
};

/// The row's scores -> powers, rounded to TF32, of which the first `valid` count. Returns what
/// earlier sums have to be multiplied by. A row of which nothing is finite yet keeps sums of 0.
template <unsigned kKeys, unsigned kStride>
__device__ float SoftmaxRow(float* scores, int valid, float scale, Row* row) {
  constexpr unsigned kOwn = kKeys / 2;
  const unsigned half = LaneOfWarp() / kSide;
  float* const own = scores + LaneOfWarp() % kSide * kStride + half * kOwn;
  valid -= static_cast<int>(half * kOwn);
  float x[kOwn];
  float maximum = -INFINITY;
#pragma unroll
  for (unsigned i = 0; i < kOwn; i += 4) {
    const float4 four = *reinterpret_cast<const float4*>(own + i);
    x[i] = four.x;
    x[i + 1] = four.y;
    x[i + 2] = four.z;
    x[i + 3] = four.w;
  }
#pragma unroll
  for (unsigned i = 0; i < kOwn; ++i) {
    if (static_cast<int>(i) >= valid) x[i] = -INFINITY;
    maximum = fmaxf(maximum, x[i]);  // passes over a NaN, which shows in the powers
  }
  maximum = fmaxf(maximum, __shfl_xor_sync(kAllLanes, maximum, static_cast<int>(kSide)));
  const float reference = fmaxf(row->reference, maximum * scale);
  const float offset = reference == -INFINITY ? 0.0f : reference;
  float sum = 0;
#pragma unroll
  for (unsigned i = 0; i < kOwn; ++i) {
    x[i] = exp2f(fmaf(x[i], scale, -offset));
    sum += x[i];
  }
#pragma unroll
  for (unsigned i = 0; i < kOwn; i += 4) {
    *reinterpret_cast<float4*>(own + i) = RoundToTf32({x[i], x[i + 1], x[i + 2], x[i + 3]});
  }
  sum += __shfl_xor_sync(kAllLanes, sum, static_cast<int>(kSide));
  const float factor = exp2f(row->reference - offset);
  row->sum = row->sum * factor + sum;
  row->reference = reference;
  return factor;
}

/// tile [16][kNarrowStride] = 16 copies of each row's `value`.
__device__ void RepeatRow(float value, float* tile) {
  const unsigned half = LaneOfWarp() / kSide;
  float4* const to =
      reinterpret_cast<float4*>(tile + LaneOfWarp() % kSide * kNarrowStride + half * kSide / 2);
  to[0] = {value, value, value, value};
  to[1] = {value, value, value, value};
}

template <unsigned kWidth>
__global__ void __launch_bounds__(Tiles<kWidth>::kThreads, 2)
    ForwardKernel(Dimensions dim, const float* qkv, float* out, float* log_sums) {
  using T = Tiles<kWidth>;
  float* const keys = SharedTiles();
  float* const values = keys + T::kValues;
  float* const scores = keys + T::kScores + WarpOfBlock() * kSide * T::kScoreStride;
  float* const factors = keys + T::kFactors + WarpOfBlock() * kSide * kNarrowStride;

  // Late queries see most keys: their blocks start first.
  const Place at = PlaceOf(dim, blockIdx.x % dim.pairs);
  const unsigned begin = (dim.tiles - 1 - blockIdx.x / dim.pairs) * T::kQueries;
  const unsigned own = begin + WarpOfBlock() * kSide;  // the warp's first query
  const size_t stride = 3 * dim.width();
  const float* const rows = qkv + at.qkv;
  const float scale = dim.scale * kLog2E;

  FillTile<kWidth, T::kQueries, T::kThreads>(dim, rows, stride, begin, T::kKeyStride, keys);
  __syncthreads();
  Left<wmma::row_major> queries[kWidth / kDepth];
#pragma unroll
  for (unsigned k = 0; k < kWidth / kDepth; ++k) {
    wmma::load_matrix_sync(queries[k], keys + WarpOfBlock() * kSide * T::kKeyStride + k * kDepth,
                           T::kKeyStride);
  }
  Sums sums[kWidth / kSide];
#pragma unroll
  for (auto& sum : sums) wmma::fill_fragment(sum, 0.0f);
  Row row;

  const unsigned end = min(begin + T::kQueries, dim.length);
  for (unsigned key = 0; key < end; key += T::kKeys) {
    __syncthreads();  // nobody reads the tiles before these any more
    FillTile<kWidth, T::kKeys, T::kThreads>(dim, rows + dim.width(), stride, key, T::kKeyStride,
                                            keys);
    FillTile<kWidth, T::kKeys, T::kThreads>(dim, rows + 2 * dim.width(), stride, key,
                                            T::kValueStride, values);
    __syncthreads();
    if (own >= dim.length || key > own) continue;  // the whole warp

    Sums products[T::kKeys / kSide];
#pragma unroll
    for (auto& product : products) wmma::fill_fragment(product, 0.0f);
#pragma unroll
    for (unsigned k = 0; k < kWidth / kDepth; ++k) {
#pragma unroll
      for (unsigned j = 0; j < T::kKeys / kSide; ++j) {
        Right<wmma::col_major> b;
        wmma::load_matrix_sync(b, keys + j * kSide * T::kKeyStride + k * kDepth, T::kKeyStride);
        wmma::mma_sync(products[j], queries[k], b, products[j]);
      }
    }
#pragma unroll
    for (unsigned j = 0; j < T::kKeys / kSide; ++j) {
      wmma::store_matrix_sync(scores + j * kSide, products[j], T::kScoreStride,
                              wmma::mem_row_major);
    }
    __syncwarp();
    const int valid = static_cast<int>(own + LaneOfWarp() % kSide + 1 - key);
    const float factor = SoftmaxRow<T::kKeys, T::kScoreStride>(scores, valid, scale, &row);
    const bool rescale = __ballot_sync(kAllLanes, factor != 1.0f) != 0;
    if (rescale) RepeatRow(factor, factors);
    __syncwarp();
    if (rescale) ScaleRows(factors, sums);

    const unsigned before = (own - key) / kSide;  // tiles of 16 keys before the diagonal
    for (unsigned j = 0; j < min(before, T::kKeys / kSide); ++j) {
      AddProduct(scores + j * kSide, T::kScoreStride, values + j * kSide * T::kValueStride,
                 T::kValueStride, sums);
    }
    if (before < T::kKeys / kSide) {
      __syncwarp();  // the factors have been read
      AddTriangle<Triangle::kLower>(scores + before * kSide, T::kScoreStride,
                                    values + before * kSide * T::kValueStride, T::kValueStride,
                                    factors, sums);
    }
    __syncwarp();  // before the next tile's scores and factors
  }

  __syncthreads();
  if (own < dim.length) {
    RepeatRow(1.0f / row.sum, factors);
    __syncwarp();
    ScaleRows(factors, sums);
    float* const to = keys + WarpOfBlock() * kSide * T::kKeyStride;
#pragma unroll
    for (unsigned c = 0; c < kWidth / kSide; ++c) {
      wmma::store_matrix_sync(to + c * kSide, sums[c], T::kKeyStride, wmma::mem_row_major);
    }
    const unsigned query = own + LaneOfWarp();
    if (LaneOfWarp() < kSide && query < dim.length) {
      log_sums[at.log_sum + static_cast<size_t>(query) * dim.heads] =
          (row.reference + log2f(row.sum)) * kLn2;
    }
  }
  __syncthreads();
  StoreTile<kWidth, T::kQueries, T::kThreads>(dim, keys, T::kKeyStride, begin, dim.width(),
                                              out + at.out);
}

}  // namespace

void AttentionForward(cudaStream_t stream, const AttentionShape& shape, const float* qkv,
                      float* out, float* log_sums) {
  WithWidth(shape.head_dim, [&](auto width) {
    constexpr unsigned kWidth = decltype(width)::value;
    using T = Tiles<kWidth>;
    const bool vector = ByVectors(shape.head_dim, {qkv, out});
    const Dimensions dim = DimensionsOf(shape, T::kQueries, vector);
    Launch("attention", stream, dim3(dim.tiles * dim.pairs), T::kThreads, T::kBytes,
           ForwardKernel<kWidth>, dim, qkv, out, log_sums);
  });
}

}  // namespace mf::cuda
