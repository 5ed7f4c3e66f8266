// A block takes 32 tokens and goes over the tables in groups of 32: a lane of a warp is a table, so
// that a warp reads one token's row; a tile in shared memory turns this into pairs x tokens, so
// that stores are whole lines, too. Every number of x is read from memory once (for the norm's
// statistics; the hash finds it in the first-level cache: 32 rows of 512 numbers are 64 KiB).
#include <algorithm>

#include "common/base/check.h"
#include "worker/compute/cuda/kernels/hash.h"
#include "worker/compute/cuda/kernels/launch.h"
#include "worker/compute/cuda/kernels/norm_rows.cuh"

namespace mf::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kWarps = kThreads / kWarp;
constexpr unsigned kTile = 32;                 // tokens of a block, and tables at a time
constexpr unsigned kPerWarp = kTile / kWarps;  // tokens of a warp
constexpr unsigned kTileStride = kTile + 1;    // no bank conflicts across tables
constexpr unsigned kTileSize = kTile * kTileStride;

/// The sub-vector of one table and token.
struct SubVector {
  const float* x;
  const float* gain;
  const float* bias;  // or nullptr
  RowStatistics row;
  unsigned bits;

  __device__ float At(unsigned i) const {
    return Normed(x[i], row, gain[i], bias ? bias[i] : 0.0f);
  }
  /// Calls body(i, z_i) for all i, rising; by 16-byte loads if `vector`.
  template <bool kVector, class Body>
  __device__ void ForEach(const Body& body) const {
    if constexpr (kVector) {
      for (unsigned i = 0; i < bits; i += 4) {
        const float4 v = *reinterpret_cast<const float4*>(x + i);
        const float4 g = *reinterpret_cast<const float4*>(gain + i);
        float4 b = make_float4(0, 0, 0, 0);
        if (bias) b = *reinterpret_cast<const float4*>(bias + i);
        body(i, Normed(v.x, row, g.x, b.x));
        body(i + 1, Normed(v.y, row, g.y, b.y));
        body(i + 2, Normed(v.z, row, g.z, b.z));
        body(i + 3, Normed(v.w, row, g.w, b.w));
      }
    } else {
      for (unsigned i = 0; i < bits; ++i) body(i, At(i));
    }
  }
};

/// exp(-2|z|/t): the factor of p from the bucket of z to the one with that bit flipped; in [0, 1].
__device__ float Decay(float magnitude, float minus_two_over_t) {
  return expf(magnitude * minus_two_over_t);
}

struct Bucket {
  uint32_t index;
  float p;    // eq. 10
  float sum;  // sum |z_i| = sim of the bucket of z itself
};

template <bool kVector>
__device__ Bucket BucketOf(const SubVector& z, float minus_two_over_t) {
  uint32_t index = 0;
  float product = 1;
  float sum = 0;
  z.ForEach<kVector>([&](unsigned i, float value) {
    const float magnitude = fabsf(value);
    product = fmaf(product, Decay(magnitude, minus_two_over_t), product);
    sum += magnitude;
    if (value >= 0) index |= 1u << i;
  });
  return {index, 1.0f / product, sum};
}

/// The smallest |z_i| whose bit is not in `used`, ties to the lowest i. Magnitudes are compared by
/// their bits, which order like the numbers and give NaN a place too.
struct Flip {
  unsigned i;
  float magnitude;
};
template <bool kVector>
__device__ Flip NextFlip(const SubVector& z, uint32_t used) {
  int best = 0x7FFFFFFF;
  unsigned flip = 0;
  z.ForEach<kVector>([&](unsigned i, float value) {
    const int key = __float_as_int(fabsf(value));
    if ((used >> i & 1) == 0 && key < best) {
      best = key;
      flip = i;
    }
  });
  return {flip, __int_as_float(best)};
}

/// The tokens of a warp: where its rows are and their statistics. Tokens beyond the last repeat it.
struct WarpRows {
  size_t token[kPerWarp];
  RowStatistics row[kPerWarp];
};
__device__ WarpRows RowsOfWarp(const NormParameters& norm, const float* x, size_t tokens) {
  WarpRows rows;
  for (unsigned n = 0; n < kPerWarp; ++n) {
    const size_t token = blockIdx.x * size_t{kTile} + WarpOfBlock() * kPerWarp + n;
    rows.token[n] = token < tokens ? token : tokens - 1;
    rows.row[n] = StatisticsOfRow(norm.kind, x + rows.token[n] * norm.width, norm.width);
  }
  return rows;
}

__device__ SubVector SubVectorOf(const NormParameters& norm, const HashParameters& hash,
                                 const float* x, size_t token, const RowStatistics& row,
                                 size_t table) {
  const size_t column = table * hash.bits;
  return {x + token * norm.width + column, norm.gain + column,
          norm.bias ? norm.bias + column : nullptr, row, static_cast<unsigned>(hash.bits)};
}

__device__ void StoreIndex(void* indices, int bytes, size_t at, uint32_t index) {
  if (bytes == 1) static_cast<uint8_t*>(indices)[at] = static_cast<uint8_t>(index);
  if (bytes == 2) static_cast<uint16_t*>(indices)[at] = static_cast<uint16_t>(index);
  if (bytes == 4) static_cast<uint32_t*>(indices)[at] = index;
}

template <bool kVector>
__global__ void __launch_bounds__(kThreads)
    ForwardKernel(NormParameters norm, HashParameters hash, const float* __restrict__ x,
                  size_t tokens, void* __restrict__ indices, float* __restrict__ weights) {
  uint32_t* index_tile = SharedMemory<uint32_t>();  // [tables][tokens]
  float* weight_tile = reinterpret_cast<float*>(index_tile + kTileSize);
  const float minus_two_over_t = -2.0f / hash.temperature;
  const bool scaled = hash.score == Score::kScaled;
  const WarpRows rows = RowsOfWarp(norm, x, tokens);
  const size_t first_token = blockIdx.x * size_t{kTile};
  for (size_t first = 0; first < hash.tables; first += kTile) {
    const size_t table = first + LaneOfWarp();
    const bool here = table < hash.tables;
    Bucket bucket[kPerWarp];
    uint32_t used[kPerWarp];
    for (unsigned j = 0; j < hash.probes; ++j) {
#pragma unroll
      for (unsigned n = 0; n < kPerWarp; ++n) {
        if (!here) break;
        const SubVector z = SubVectorOf(norm, hash, x, rows.token[n], rows.row[n], table);
        uint32_t index;
        float p, sim;
        if (j == 0) {
          bucket[n] = BucketOf<kVector>(z, minus_two_over_t);
          used[n] = 0;
          index = bucket[n].index;
          p = bucket[n].p;
          sim = bucket[n].sum;
        } else {
          const Flip flip = NextFlip<kVector>(z, used[n]);
          used[n] |= 1u << flip.i;
          index = bucket[n].index ^ 1u << flip.i;
          p = bucket[n].p * Decay(flip.magnitude, minus_two_over_t);
          sim = bucket[n].sum - 2 * flip.magnitude;
        }
        const unsigned at = LaneOfWarp() * kTileStride + WarpOfBlock() * kPerWarp + n;
        index_tile[at] = index;
        weight_tile[at] = scaled ? p * sim : p;
      }
      __syncthreads();
      const size_t token = first_token + LaneOfWarp();
      for (unsigned n = WarpOfBlock(); n < kTile; n += kWarps) {
        if (first + n >= hash.tables || token >= tokens) continue;
        const size_t at = ((first + n) * hash.probes + j) * tokens + token;
        StoreIndex(indices, hash.index_bytes, at, index_tile[n * kTileStride + LaneOfWarp()]);
        weights[at] = weight_tile[n * kTileStride + LaneOfWarp()];
      }
      __syncthreads();
    }
  }
}

/// What the pairs of a table put on dz. With g_b = dL/dw_b, s the signs of z and
/// e_i = exp(-2|z_i|/t): s_i - tanh(z_i/t) = s_i * 2 e_i / (1 + e_i) for a bucket that keeps bit i,
/// and -s_i - tanh(z_i/t) = -s_i * 2 / (1 + e_i) for the one that flips it: nothing cancels.
struct PairSums {
  float plain;  // scaled: sum of g_b p_b, the part p_b * s_b,i
  float slope;  // sum of g_b p_b / t, times sim_b if scaled
};

template <bool kVector>
__global__ void __launch_bounds__(kThreads)
    BackwardKernel(NormParameters norm, HashParameters hash, const float* __restrict__ x,
                   size_t tokens, const float* __restrict__ dweights, float* __restrict__ dz) {
  float* tile = SharedMemory<float>();  // [probes][tables][tokens] of dweights
  const float minus_two_over_t = -2.0f / hash.temperature;
  const float inverse_t = 1.0f / hash.temperature;
  const bool scaled = hash.score == Score::kScaled;
  const WarpRows rows = RowsOfWarp(norm, x, tokens);
  const size_t first_token = blockIdx.x * size_t{kTile};
  const auto terms = [&](float g, float p, float sim) -> PairSums {
    const float slope = g * p * inverse_t;
    if (scaled) return {g * p, slope * sim};
    return {0, slope};
  };
  for (size_t first = 0; first < hash.tables; first += kTile) {
    for (unsigned j = 0; j < hash.probes; ++j) {
      for (unsigned n = WarpOfBlock(); n < kTile; n += kWarps) {
        const size_t token = first_token + LaneOfWarp();
        if (first + n >= hash.tables || token >= tokens) continue;
        tile[j * kTileSize + n * kTileStride + LaneOfWarp()] =
            dweights[((first + n) * hash.probes + j) * tokens + token];
      }
    }
    __syncthreads();
    const size_t table = first + LaneOfWarp();
    for (unsigned n = 0; table < hash.tables && n < kPerWarp; ++n) {
      const unsigned in_block = WarpOfBlock() * kPerWarp + n;
      if (first_token + in_block >= tokens) break;
      const SubVector z = SubVectorOf(norm, hash, x, rows.token[n], rows.row[n], table);
      const float* g = tile + LaneOfWarp() * kTileStride + in_block;
      float* to = dz + rows.token[n] * norm.width + table * hash.bits;
      const Bucket bucket = BucketOf<kVector>(z, minus_two_over_t);
      PairSums all = terms(g[0], bucket.p, bucket.sum);
      const auto flipped = [&](unsigned j, const Flip& flip) {
        return terms(g[j * kTileSize], bucket.p * Decay(flip.magnitude, minus_two_over_t),
                     bucket.sum - 2 * flip.magnitude);
      };
      uint32_t used = 0;
      for (unsigned j = 1; j < hash.probes; ++j) {
        const Flip flip = NextFlip<kVector>(z, used);
        used |= 1u << flip.i;
        const PairSums pair = flipped(j, flip);
        all.plain += pair.plain;
        all.slope += pair.slope;
      }
      const auto gradient = [&](float value, const PairSums& here) {
        const float e = Decay(fabsf(value), minus_two_over_t);
        const float kept = (all.slope - here.slope) * e;
        const float sum = 2.0f / (1.0f + e) * (kept - here.slope) + (all.plain - 2 * here.plain);
        return value >= 0 ? sum : -sum;
      };
      z.ForEach<kVector>([&](unsigned i, float value) { to[i] = gradient(value, {0, 0}); });
      // The few bits that a pair flips, once more.
      used = 0;
      for (unsigned j = 1; j < hash.probes; ++j) {
        const Flip flip = NextFlip<kVector>(z, used);
        used |= 1u << flip.i;
        to[flip.i] = gradient(z.At(flip.i), flipped(j, flip));
      }
    }
    __syncthreads();
  }
}

void CheckShapes(const NormParameters& norm, const HashParameters& hash) {
  MF_CHECK(hash.bits >= 1 && hash.bits <= 32 && hash.probes >= 1 && hash.probes <= hash.bits + 1);
  MF_CHECK(hash.width() == norm.width);
}

}  // namespace

size_t HashSharedBytes(const HashParameters& hash) {
  return std::max<size_t>(2, hash.probes) * kTileSize * sizeof(float);
}

void HashForward(cudaStream_t stream, const NormParameters& norm, const HashParameters& hash,
                 const float* x, size_t tokens, void* indices, float* weights) {
  CheckShapes(norm, hash);
  const size_t shared = kTileSize * (sizeof(uint32_t) + sizeof(float));
  Launch(
      "hash", stream, BlocksFor(tokens, kTile), kThreads, shared,
      ByVectors(hash.bits, {x, norm.gain, norm.bias}) ? ForwardKernel<true> : ForwardKernel<false>,
      norm, hash, x, tokens, indices, weights);
}

void HashBackward(cudaStream_t stream, const NormParameters& norm, const HashParameters& hash,
                  const float* x, size_t tokens, const float* dweights, float* dz) {
  CheckShapes(norm, hash);
  const size_t shared = HashSharedBytes(hash);
  Launch("hash backward", stream, BlocksFor(tokens, kTile), kThreads, shared,
         ByVectors(hash.bits, {x, norm.gain, norm.bias}) ? BackwardKernel<true>
                                                         : BackwardKernel<false>,
         norm, hash, x, tokens, dweights, dz);
}

}  // namespace mf::cuda
