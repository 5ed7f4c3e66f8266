// What the forward and the backward kernels of attention share: how one head's rows come to shared
// memory and go back, the fragments of the tensor cores, and products with them.
//
// Numbers are rounded to TF32 once, when they are written to shared memory, not each time a
// fragment is loaded: several warps load every number, and a conversion costs as much as a load.
//
// A tile's stride decides the bank conflicts of fragment loads, in which eight rows times four
// numbers (or four rows times eight) are read at once: an odd multiple of 4 suits the first kind
// (row-major left operands, column-major right ones), an odd multiple of 8 the second (row-major
// right operands).
#pragma once

#include <mma.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>

#include "worker/compute/cpu/attention.h"
#include "worker/compute/cuda/kernels/attention.h"
#include "worker/compute/cuda/kernels/device_code.h"
#include "worker/compute/cuda/kernels/launch.h"

namespace mf::cuda::attention {

namespace wmma = nvcuda::wmma;

inline constexpr unsigned kSide = 16;  // a wmma product: 16 x 8 times 8 x 16
inline constexpr unsigned kDepth = 8;
/// Stride of a 16-wide tile that is written and read as a whole.
inline constexpr unsigned kNarrowStride = kSide + 4;

/// What a block of sm_80 can have; later ones can have more.
inline constexpr size_t kSharedMost = 163 * 1024;

inline constexpr float kLog2E = 1.44269504088896340736f;
inline constexpr float kLn2 = 0.69314718055994530942f;

template <class Layout>
using Left = wmma::fragment<wmma::matrix_a, kSide, kSide, kDepth, wmma::precision::tf32, Layout>;
template <class Layout>
using Right = wmma::fragment<wmma::matrix_b, kSide, kSide, kDepth, wmma::precision::tf32, Layout>;
using Sums = wmma::fragment<wmma::accumulator, kSide, kSide, kDepth, float>;

/// The shape as kernels want it.
struct Dimensions {
  unsigned length = 0;
  unsigned heads = 0;
  unsigned head_dim = 0;
  unsigned pairs = 0;   // of a sequence and a head
  unsigned tiles = 0;   // blocks of a pair
  bool vector = false;  // rows can be read and written by 16 bytes
  float scale = 0;      // 1 / sqrt(head_dim)

  __device__ size_t width() const { return static_cast<size_t>(heads) * head_dim; }
};

/// `tile_rows` queries or keys are one block's.
inline Dimensions DimensionsOf(const AttentionShape& shape, unsigned tile_rows, bool vector) {
  return {.length = static_cast<unsigned>(shape.length),
          .heads = static_cast<unsigned>(shape.heads),
          .head_dim = static_cast<unsigned>(shape.head_dim),
          .pairs = static_cast<unsigned>(shape.sequences * shape.heads),
          .tiles = BlocksFor(shape.length, tile_rows),
          .vector = vector,
          .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)))};
}

/// Calls call(std::integral_constant<unsigned, width>) with the narrowest variant that holds
/// `head_dim`. Throws CudaError if there is none.
template <class Call>
void WithWidth(size_t head_dim, const Call& call) {
  if (head_dim == 0 || head_dim > kMaxHeadDim) {
    throw CudaError("attention: no kernel for a head_dim of " + std::to_string(head_dim));
  }
  if (head_dim <= 16) return call(std::integral_constant<unsigned, 16>());
  if (head_dim <= 32) return call(std::integral_constant<unsigned, 32>());
  if (head_dim <= 64) return call(std::integral_constant<unsigned, 64>());
  if (head_dim <= 96) return call(std::integral_constant<unsigned, 96>());
  return call(std::integral_constant<unsigned, kMaxHeadDim>());
}

/// Where one sequence and head starts in [tokens][3d], [tokens][d] and [tokens][heads].
struct Place {
  size_t qkv;
  size_t out;
  size_t log_sum;
};

__device__ inline Place PlaceOf(const Dimensions& dim, unsigned pair) {
  const size_t token = static_cast<size_t>(pair / dim.heads) * dim.length;
  const unsigned head = pair % dim.heads;
  const size_t column = static_cast<size_t>(head) * dim.head_dim;
  return {token * 3 * dim.width() + column, token * dim.width() + column, token * dim.heads + head};
}

/// wmma wants its tiles at multiples of 32 bytes, SharedMemory() promises 16: kernels that call
/// this ask for kSlack bytes more. (A sum, not a rounded address, so that the compiler still sees
/// that this is shared memory.)
inline constexpr size_t kSlack = 16;
__device__ inline float* SharedTiles() {
  float* const memory = SharedMemory<float>();
  return memory + (reinterpret_cast<uintptr_t>(memory) % 32 == 0 ? 0 : 4);
}

__device__ inline float4 RoundToTf32(float4 x) {
  return {wmma::__float_to_tf32(x.x), wmma::__float_to_tf32(x.y), wmma::__float_to_tf32(x.z),
          wmma::__float_to_tf32(x.w)};
}

/// `tile` [kRows][kWidth + 4] or another stride = rows [begin, begin + kRows) of one head, `stride`
/// numbers apart in `from`, rounded to TF32; zeros beyond the sequence's and the head's end. By all
/// of the block's kThreads.
template <unsigned kWidth, unsigned kRows, unsigned kThreads>
__device__ void FillTile(const Dimensions& dim, const float* __restrict__ from, size_t stride,
                         unsigned begin, unsigned tile_stride, float* tile) {
  if (!dim.vector) {
    for (unsigned i = threadIdx.x; i < kRows * kWidth; i += kThreads) {
      const unsigned row = i / kWidth;
      const unsigned column = i % kWidth;
      const bool inside = begin + row < dim.length && column < dim.head_dim;
      const float x = inside ? from[(begin + row) * stride + column] : 0.0f;
      tile[row * tile_stride + column] = wmma::__float_to_tf32(x);
    }
    return;
  }
  // Several loads are under way before the first is waited for.
  constexpr unsigned kAtOnce = 4;
  constexpr unsigned kQuads = kWidth / 4;
  for (unsigned i = threadIdx.x; i < kRows * kQuads; i += kAtOnce * kThreads) {
    float4 held[kAtOnce];
#pragma unroll
    for (unsigned n = 0; n < kAtOnce; ++n) {
      const unsigned row = (i + n * kThreads) / kQuads;
      const unsigned column = (i + n * kThreads) % kQuads * 4;
      held[n] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (row < kRows && begin + row < dim.length && column < dim.head_dim) {
        held[n] = *reinterpret_cast<const float4*>(from + (begin + row) * stride + column);
      }
    }
#pragma unroll
    for (unsigned n = 0; n < kAtOnce; ++n) {
      const unsigned row = (i + n * kThreads) / kQuads;
      const unsigned column = (i + n * kThreads) % kQuads * 4;
      if (row < kRows) {
        *reinterpret_cast<float4*>(tile + row * tile_stride + column) = RoundToTf32(held[n]);
      }
    }
  }
}

/// The way back, unrounded: what lies beyond the sequence's and the head's end is left out.
template <unsigned kWidth, unsigned kRows, unsigned kThreads>
__device__ void StoreTile(const Dimensions& dim, const float* tile, unsigned tile_stride,
                          unsigned begin, size_t stride, float* __restrict__ to) {
  if (!dim.vector) {
    for (unsigned i = threadIdx.x; i < kRows * kWidth; i += kThreads) {
      const unsigned row = i / kWidth;
      const unsigned column = i % kWidth;
      if (begin + row < dim.length && column < dim.head_dim) {
        to[(begin + row) * stride + column] = tile[row * tile_stride + column];
      }
    }
    return;
  }
  constexpr unsigned kQuads = kWidth / 4;
  for (unsigned i = threadIdx.x; i < kRows * kQuads; i += kThreads) {
    const unsigned row = i / kQuads;
    const unsigned column = i % kQuads * 4;
    if (begin + row < dim.length && column < dim.head_dim) {
      *reinterpret_cast<float4*>(to + (begin + row) * stride + column) =
          *reinterpret_cast<const float4*>(tile + row * tile_stride + column);
    }
  }
}

/// x *= factor of its row; `factors` is a tile [16][kNarrowStride] with 16 copies of each factor.
/// Which number of a fragment belongs to which row is not known, but it is the same for all
/// fragments of one kind: the factors come as a fragment too.
template <unsigned kCount>
__device__ void ScaleRows(const float* factors, Sums (&x)[kCount]) {
  Sums factor;
  wmma::load_matrix_sync(factor, factors, kNarrowStride, wmma::mem_row_major);
#pragma unroll
  for (unsigned c = 0; c < kCount; ++c) {
#pragma unroll
    for (unsigned i = 0; i < factor.num_elements; ++i) x[c].x[i] *= factor.x[i];
  }
}

/// sums [16][16 * kCount] += left [16][16] * right [16][..], both in shared memory and rounded.
template <unsigned kCount>
__device__ void AddProduct(const float* left, unsigned left_stride, const float* right,
                           unsigned right_stride, Sums (&sums)[kCount]) {
#pragma unroll
  for (unsigned k = 0; k < kSide; k += kDepth) {
    Left<wmma::row_major> a;
    wmma::load_matrix_sync(a, left + k, left_stride);
#pragma unroll
    for (unsigned c = 0; c < kCount; ++c) {
      Right<wmma::row_major> b;
      wmma::load_matrix_sync(b, right + k * right_stride + c * kSide, right_stride);
      wmma::mma_sync(sums[c], a, b, sums[c]);
    }
  }
}

/// Which half of a 16 x 16 tile on the diagonal counts, the diagonal included.
enum class Triangle { kLower, kUpper };

template <Triangle kCounts>
__device__ bool Counts(unsigned row, unsigned column) {
  return kCounts == Triangle::kLower ? column <= row : column >= row;
}

__device__ inline bool Finite(float x) { return fabsf(x) < INFINITY; }

/// What AddTriangle leaves out: products of numbers that count with numbers of `right` that are not
/// finite, into a tile and from there to `sums`, which keep their bits where nothing is added.
template <Triangle kCounts>
__device__ void AddNotFinite(const float* left, unsigned left_stride, const float* right,
                             unsigned right_stride, float* scratch, Sums& sums) {
  for (unsigned i = LaneOfWarp(); i < kSide * kSide; i += kWarp) {
    const unsigned row = i / kSide;
    const unsigned column = i % kSide;
    float sum = 0;
    for (unsigned k = 0; k < kSide; ++k) {
      const float b = right[k * right_stride + column];
      if (Counts<kCounts>(row, k) && !Finite(b)) sum += left[row * left_stride + k] * b;
    }
    scratch[row * kNarrowStride + column] = sum;
  }
  __syncwarp();
  Sums more;
  wmma::load_matrix_sync(more, scratch, kNarrowStride, wmma::mem_row_major);
  for (unsigned i = 0; i < more.num_elements; ++i) {
    if (more.x[i] != 0.0f) sums.x[i] += more.x[i];
  }
  __syncwarp();
}

/// AddProduct for a `left` on the diagonal, one half of which is zero. Zero times NaN is NaN, so
/// numbers of `right` that are not finite are taken out of the product and go only where they
/// belong: what a query does not see cannot reach it, not even as a NaN. `scratch`
/// [16][kNarrowStride] is the warp's own.
template <Triangle kCounts, unsigned kCount>
__device__ void AddTriangle(const float* left, unsigned left_stride, const float* right,
                            unsigned right_stride, float* scratch, Sums (&sums)[kCount]) {
  bool finite = true;
#pragma unroll
  for (unsigned k = 0; k < kSide; k += kDepth) {
    Left<wmma::row_major> a;
    wmma::load_matrix_sync(a, left + k, left_stride);
#pragma unroll
    for (unsigned c = 0; c < kCount; ++c) {
      Right<wmma::row_major> b;
      wmma::load_matrix_sync(b, right + k * right_stride + c * kSide, right_stride);
#pragma unroll
      for (unsigned i = 0; i < b.num_elements; ++i) {
        finite = finite && Finite(b.x[i]);
        if (!Finite(b.x[i])) b.x[i] = 0.0f;
      }
      wmma::mma_sync(sums[c], a, b, sums[c]);
    }
  }
  if (__ballot_sync(kAllLanes, !finite) == 0) return;
#pragma unroll
  for (unsigned c = 0; c < kCount; ++c) {
    AddNotFinite<kCounts>(left, left_stride, right + c * kSide, right_stride, scratch, sums[c]);
  }
}

}  // namespace mf::cuda::attention
