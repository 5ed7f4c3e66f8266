// Attention, backward: probabilities again from the log sums (Dao et al., FlashAttention-2, 2023).
//
//   P = exp(scale Q K^T - log_sums), dP = dO V^T, dS = P * (dP - products), products = <dO, O>,
//   dV = P^T dO, dK = scale dS^T Q, dQ = scale dS K.
//
// No number has two writers: one kernel whose blocks have 64 keys and go over the queries that see
// them (dK, dV), and one whose blocks have 64 queries and go over the keys they see (dQ). They do
// the same thing with the parts exchanged: what a block has it has as rows of the scores, what
// passes by it has as columns, so the first kernel works on transposed scores, whose half above the
// diagonal counts. In both, the tile of scores is never reduced along a row, so its arithmetic
// happens in fragments; log sums and products come as fragments, too, from tiles that repeat them
// 16 times, and only P and dS go through shared memory, to become left operands.
//
// Predicted cost, head_dim 64: 4 and 3 products of 2 * 64 * 64 * 64 flop for each pair of 64-row
// tiles, 7 in all against the 5 of a kernel that adds up dQ with atomics: the price of the same
// bits each time. 32 KiB pass by for 2.1 and 1.6 Mflop, 64 and 48 flop a byte from L2, so 64 rows a
// block are enough. Shared memory is the limit again: what passes by is read both ways, as columns
// and as rows of a right operand, so one of the two has two-way bank conflicts: 768 bytes of time
// for each 4096 flop. 32 rows pass by at a time, which makes 45 KiB a block; registers leave two
// blocks on an SM for dK and dV and three for dQ, so that one block's loads hide behind another's
// products. Heads wider than 64 need so many sums that two warps share 16 rows: each makes half of
// P and dS and adds up half of the columns; what a block has then lies in shared memory instead of
// in registers (132 KiB for 128: one block on an SM).
#include "worker/compute/cuda/kernels/attention.h"
#include "worker/compute/cuda/kernels/attention_tiles.cuh"

namespace mf::cuda {
namespace {

using namespace attention;  // the kernels' own vocabulary

enum class Own { kKeys, kQueries };

template <unsigned kWidth, Own kOwn>
struct Tiles {
  static constexpr unsigned kParts = kWidth <= 64 ? 1 : 2;  // warps that share 16 rows
  static constexpr bool kHeld = kWidth <= 64;               // own rows in registers
  static constexpr unsigned kGroups = 4;
  static constexpr unsigned kThreads = kGroups * kParts * kWarp;
  static constexpr unsigned kRows = kGroups * kSide;  // the block's own
  static constexpr unsigned kPassing = 32;
  static constexpr unsigned kStride = kWidth + 4;
  static constexpr unsigned kScoreStride = kPassing + 4;
  static constexpr unsigned kColumns = kWidth / kParts;  // of the sums, a warp's
  /// Log sums and products are those of queries, wherever these are.
  static constexpr unsigned kQueries = kOwn == Own::kKeys ? kPassing : kRows;

  // Offsets in shared memory, in floats. Two passing tiles are as large as one of the own rows,
  // which comes and goes there.
  static constexpr unsigned kSecond = kPassing * kStride;
  static constexpr unsigned kOwnTiles = 2 * kSecond;
  static constexpr unsigned kLogSums = kOwnTiles + (kHeld ? 0 : 2 * kRows * kStride);
  static constexpr unsigned kProducts = kLogSums + kQueries * kNarrowStride;
  static constexpr unsigned kP = kProducts + kQueries * kNarrowStride;
  static constexpr unsigned kDs = kP + (kOwn == Own::kKeys ? kRows * kScoreStride : 0);
  static constexpr unsigned kScratch = kDs + kRows * kScoreStride;
  static constexpr size_t kBytes =
      (kScratch + kGroups * kParts * kSide * kNarrowStride) * sizeof(float) + kSlack;
  static_assert(kRows <= 2 * kPassing);
  static_assert(kBytes <= kSharedMost);
  static_assert(kSecond % 8 == 0 && kLogSums % 8 == 0 && kProducts % 8 == 0 && kP % 8 == 0 &&
                    kDs % 8 == 0 && kScratch % 8 == 0,
                "32 bytes");
};

/// 16 rows in shared memory as left operands: kept in registers, or read each time.
template <unsigned kWidth, bool kHeld>
class Operand {
 public:
  __device__ void Take(const float* rows, unsigned stride) {
    rows_ = rows;
    stride_ = stride;
    if constexpr (kHeld) {
#pragma unroll
      for (unsigned k = 0; k < kWidth / kDepth; ++k) {
        wmma::load_matrix_sync(held_[k], rows + k * kDepth, stride);
      }
    }
  }
  __device__ Left<wmma::row_major> At(unsigned k) const {
    if constexpr (kHeld) {
      return held_[k];
    } else {
      Left<wmma::row_major> a;
      wmma::load_matrix_sync(a, rows_ + k * kDepth, stride_);
      return a;
    }
  }

 private:
  const float* rows_ = nullptr;
  unsigned stride_ = 0;
  Left<wmma::row_major> held_[kHeld ? kWidth / kDepth : 1];
};

/// sums = own rows [16][kWidth] times the transpose of 16 passing rows.
template <unsigned kWidth, bool kHeld>
__device__ void Scores(const Operand<kWidth, kHeld>& own, const float* passing, unsigned stride,
                       Sums* sums) {
  wmma::fill_fragment(*sums, 0.0f);
#pragma unroll
  for (unsigned k = 0; k < kWidth / kDepth; ++k) {
    Right<wmma::col_major> b;
    wmma::load_matrix_sync(b, passing + k * kDepth, stride);
    wmma::mma_sync(*sums, own.At(k), b, *sums);
  }
}

/// Which of the lane's numbers in a fragment lie in the half of a diagonal tile that counts, a bit
/// each. `scratch` [16][kNarrowStride] is the warp's own.
template <Triangle kCounts>
__device__ unsigned TriangleMask(float* scratch) {
  for (unsigned i = LaneOfWarp(); i < kSide * kSide; i += kWarp) {
    const unsigned row = i / kSide;
    const unsigned column = i % kSide;
    scratch[row * kNarrowStride + column] = Counts<kCounts>(row, column) ? 1.0f : 0.0f;
  }
  __syncwarp();
  Sums tile;
  wmma::load_matrix_sync(tile, scratch, kNarrowStride, wmma::mem_row_major);
  __syncwarp();
  unsigned mask = 0;
#pragma unroll
  for (unsigned i = 0; i < tile.num_elements; ++i) mask |= (tile.x[i] != 0.0f ? 1u : 0u) << i;
  return mask;
}

/// Scores and dP of a tile -> P and dS, rounded to TF32; exactly 0 where `mask` has no bit and for
/// queries with an infinite log sum, which are none (not even if a key is infinite).
__device__ void ScoreGradient(float scale, unsigned mask, const Sums& log_sums,
                              const Sums& products, Sums* p, Sums* ds) {
#pragma unroll
  for (unsigned i = 0; i < p->num_elements; ++i) {
    const float power = exp2f(fmaf(p->x[i], scale, -log_sums.x[i]));
    const float gradient = power * (ds->x[i] - products.x[i]);
    const bool counts = (mask >> i & 1) != 0 && log_sums.x[i] != INFINITY;
    p->x[i] = counts ? wmma::__float_to_tf32(power) : 0.0f;
    ds->x[i] = counts ? wmma::__float_to_tf32(gradient) : 0.0f;
  }
}

/// 16 copies of log2 of the sum and of <dO, O> for kRows queries from `begin` on. Queries beyond
/// the sequence's end get sums so large that their probabilities are 0.
template <unsigned kRows, unsigned kThreads>
__device__ void FillRepeated(const Dimensions& dim, const float* log_sums, const float* products,
                             unsigned begin, float* log_sum_tile, float* product_tile) {
  for (unsigned i = threadIdx.x; i < kRows * kSide; i += kThreads) {
    const unsigned row = i / kSide;
    const unsigned at = row * kNarrowStride + i % kSide;
    const bool inside = begin + row < dim.length;
    const size_t from = static_cast<size_t>(begin + row) * dim.heads;
    log_sum_tile[at] = inside ? log_sums[from] * kLog2E : INFINITY;
    product_tile[at] = inside ? products[from] : 0.0f;
  }
}

struct Arrays {
  const float* qkv;
  const float* dout;
  const float* log_sums;
  const float* products;
  float* dqkv;
};

/// The warp's sums * factor -> the block's rows of `to`. By the whole block.
template <class T, unsigned kWidth, unsigned kCount>
__device__ void StoreSums(const Dimensions& dim, float factor, bool active, unsigned begin,
                          Sums (&sums)[kCount], float* tile, float* to) {
  __syncthreads();  // nobody reads the tile any more
  if (active) {
    const unsigned group = WarpOfBlock() / T::kParts;
    const unsigned part = WarpOfBlock() % T::kParts;
#pragma unroll
    for (unsigned c = 0; c < kCount; ++c) {
#pragma unroll
      for (unsigned i = 0; i < sums[c].num_elements; ++i) sums[c].x[i] *= factor;
      wmma::store_matrix_sync(tile + group * kSide * T::kStride + part * T::kColumns + c * kSide,
                              sums[c], T::kStride, wmma::mem_row_major);
    }
  }
  __syncthreads();
  StoreTile<kWidth, T::kRows, T::kThreads>(dim, tile, T::kStride, begin, 3 * dim.width(), to);
}

template <unsigned kWidth, Own kOwn>
__global__ void __launch_bounds__(Tiles<kWidth, kOwn>::kThreads)
    BackwardKernel(Dimensions dim, Arrays arrays) {
  using T = Tiles<kWidth, kOwn>;
  constexpr bool kKeys = kOwn == Own::kKeys;
  constexpr Triangle kCounts = kKeys ? Triangle::kUpper : Triangle::kLower;
  constexpr unsigned kCount = T::kColumns / kSide;
  float* const first = SharedTiles();        // passing queries or keys
  float* const second = first + T::kSecond;  // their dO or values
  const unsigned group = WarpOfBlock() / T::kParts;
  const unsigned part = WarpOfBlock() % T::kParts;
  float* const log_sum_tile = first + T::kLogSums;
  float* const product_tile = first + T::kProducts;
  float* const p_tile = first + T::kP + group * kSide * T::kScoreStride;
  float* const ds_tile = first + T::kDs + group * kSide * T::kScoreStride;
  float* const scratch = first + T::kScratch + WarpOfBlock() * kSide * kNarrowStride;

  // Early keys are seen by most queries, late queries see most keys: their blocks start first.
  const Place at = PlaceOf(dim, blockIdx.x % dim.pairs);
  const unsigned order = blockIdx.x / dim.pairs;
  const unsigned begin = (kKeys ? order : dim.tiles - 1 - order) * T::kRows;
  const unsigned own = begin + group * kSide;
  const bool active = own < dim.length;
  const size_t d = dim.width();
  const float* const queries = arrays.qkv + at.qkv;
  const float* const dout = arrays.dout + at.out;
  const float* const log_sums = arrays.log_sums + at.log_sum;
  const float* const products = arrays.products + at.log_sum;
  const float scale = dim.scale * kLog2E;

  Operand<kWidth, T::kHeld> own_first;
  Operand<kWidth, T::kHeld> own_second;
  {
    float* const tile = T::kHeld ? first : first + T::kOwnTiles;
    float* const next = T::kHeld ? first : tile + T::kRows * T::kStride;
    FillTile<kWidth, T::kRows, T::kThreads>(dim, kKeys ? queries + d : queries, 3 * d, begin,
                                            T::kStride, tile);
    __syncthreads();
    own_first.Take(tile + group * kSide * T::kStride, T::kStride);
    if constexpr (T::kHeld) __syncthreads();
    FillTile<kWidth, T::kRows, T::kThreads>(dim, kKeys ? queries + 2 * d : dout, kKeys ? 3 * d : d,
                                            begin, T::kStride, next);
    if constexpr (!kKeys) {
      FillRepeated<T::kRows, T::kThreads>(dim, log_sums, products, begin, log_sum_tile,
                                          product_tile);
    }
    __syncthreads();
    own_second.Take(next + group * kSide * T::kStride, T::kStride);
  }
  Sums log_sum;
  Sums product;
  if constexpr (!kKeys) {
    const unsigned from = group * kSide * kNarrowStride;
    wmma::load_matrix_sync(log_sum, log_sum_tile + from, kNarrowStride, wmma::mem_row_major);
    wmma::load_matrix_sync(product, product_tile + from, kNarrowStride, wmma::mem_row_major);
  }
  const unsigned mask = TriangleMask<kCounts>(scratch);
  Sums first_sums[kCount];   // dK or dQ
  Sums second_sums[kCount];  // dV
#pragma unroll
  for (unsigned c = 0; c < kCount; ++c) {
    wmma::fill_fragment(first_sums[c], 0.0f);
    wmma::fill_fragment(second_sums[c], 0.0f);
  }

  const unsigned end = kKeys ? dim.length : min(begin + T::kRows, dim.length);
  for (unsigned tile = kKeys ? begin : 0; tile < end; tile += T::kPassing) {
    // Whether the 16 own and the 16 passing rows from `passing` on have scores that count.
    const auto seen = [&](unsigned passing) {
      return active && passing < dim.length && (kKeys ? passing >= own : passing <= own);
    };
    __syncthreads();  // nobody reads the tiles before these any more
    FillTile<kWidth, T::kPassing, T::kThreads>(dim, kKeys ? queries : queries + d, 3 * d, tile,
                                               T::kStride, first);
    FillTile<kWidth, T::kPassing, T::kThreads>(dim, kKeys ? dout : queries + 2 * d,
                                               kKeys ? d : 3 * d, tile, T::kStride, second);
    if constexpr (kKeys) {
      FillRepeated<T::kPassing, T::kThreads>(dim, log_sums, products, tile, log_sum_tile,
                                             product_tile);
    }
    __syncthreads();

#pragma unroll
    for (unsigned n = part; n < T::kPassing / kSide; n += T::kParts) {
      const unsigned passing = tile + n * kSide;
      if (!seen(passing)) continue;  // the whole warp
      Sums p;
      Sums ds;
      Scores(own_first, first + n * kSide * T::kStride, T::kStride, &p);
      Scores(own_second, second + n * kSide * T::kStride, T::kStride, &ds);
      if constexpr (kKeys) {
        const unsigned from = n * kSide * kNarrowStride;
        wmma::load_matrix_sync(log_sum, log_sum_tile + from, kNarrowStride, wmma::mem_col_major);
        wmma::load_matrix_sync(product, product_tile + from, kNarrowStride, wmma::mem_col_major);
      }
      ScoreGradient(scale, passing == own ? mask : ~0u, log_sum, product, &p, &ds);
      if constexpr (kKeys) {
        wmma::store_matrix_sync(p_tile + n * kSide, p, T::kScoreStride, wmma::mem_row_major);
      }
      wmma::store_matrix_sync(ds_tile + n * kSide, ds, T::kScoreStride, wmma::mem_row_major);
    }
    if constexpr (T::kParts == 1) {
      __syncwarp();
    } else {
      __syncthreads();
    }

    const auto add = [&](unsigned n, const float* left, const float* right, auto& sums) {
      right += n * kSide * T::kStride + part * T::kColumns;
      if (tile + n * kSide == own) {
        AddTriangle<kCounts>(left + n * kSide, T::kScoreStride, right, T::kStride, scratch, sums);
      } else {
        AddProduct(left + n * kSide, T::kScoreStride, right, T::kStride, sums);
      }
    };
    for (unsigned n = 0; n < T::kPassing / kSide; ++n) {
      if (!seen(tile + n * kSide)) continue;
      add(n, ds_tile, first, first_sums);
      if constexpr (kKeys) add(n, p_tile, second, second_sums);
    }
  }

  float* const dqkv = arrays.dqkv + at.qkv;
  StoreSums<T, kWidth>(dim, dim.scale, active, begin, first_sums, first, kKeys ? dqkv + d : dqkv);
  if constexpr (kKeys) {
    StoreSums<T, kWidth>(dim, 1.0f, active, begin, second_sums, first, dqkv + 2 * d);
  }
}

constexpr unsigned kProductThreads = 256;

/// products [rows] = <a, b> of rows of `columns` numbers, a warp each.
__global__ void __launch_bounds__(kProductThreads)
    ProductsKernel(size_t rows, unsigned columns, const float* __restrict__ a,
                   const float* __restrict__ b, float* __restrict__ products) {
  const size_t row = static_cast<size_t>(blockIdx.x) * (kProductThreads / kWarp) + WarpOfBlock();
  if (row >= rows) return;  // the whole warp
  const size_t from = row * columns;
  float sum = 0;
  for (unsigned i = LaneOfWarp(); i < columns; i += kWarp) sum += a[from + i] * b[from + i];
  sum = WarpSum(sum);
  if (LaneOfWarp() == 0) products[row] = sum;
}

template <unsigned kWidth, Own kOwn>
void LaunchBackward(cudaStream_t stream, const AttentionShape& shape, const Arrays& arrays) {
  using T = Tiles<kWidth, kOwn>;
  const bool vector = ByVectors(shape.head_dim, {arrays.qkv, arrays.dout, arrays.dqkv});
  const Dimensions dim = DimensionsOf(shape, T::kRows, vector);
  Launch("attention's gradient", stream, dim3(dim.tiles * dim.pairs), T::kThreads, T::kBytes,
         BackwardKernel<kWidth, kOwn>, dim, arrays);
}

}  // namespace

size_t AttentionSharedBytes(size_t head_dim) {
  size_t bytes = 0;  // the forward kernel takes less
  WithWidth(head_dim, [&](auto width) {
    bytes = std::max(Tiles<decltype(width)::value, Own::kKeys>::kBytes,
                     Tiles<decltype(width)::value, Own::kQueries>::kBytes);
  });
  return bytes;
}

void AttentionBackward(cudaStream_t stream, const AttentionShape& shape,
                       const AttentionSaved& saved, const AttentionGradient& gradient) {
  // A token's heads lie side by side, so rows of a head are rows of a matrix, as many as products.
  const size_t rows = shape.tokens() * shape.heads;
  Launch("attention's products", stream, dim3(BlocksFor(rows, kProductThreads / kWarp)),
         kProductThreads, 0, ProductsKernel, rows, static_cast<unsigned>(shape.head_dim),
         gradient.dout, saved.out, gradient.products);
  const Arrays arrays{.qkv = saved.qkv,
                      .dout = gradient.dout,
                      .log_sums = saved.log_sums,
                      .products = gradient.products,
                      .dqkv = gradient.dqkv};
  WithWidth(shape.head_dim, [&](auto width) {
    LaunchBackward<decltype(width)::value, Own::kKeys>(stream, shape, arrays);
    LaunchBackward<decltype(width)::value, Own::kQueries>(stream, shape, arrays);
  });
}

}  // namespace mf::cuda
