#include "worker/compute/cpu/attention.h"

#include <algorithm>
#include <cmath>

#include "common/base/check.h"
#include "worker/compute/cpu/matmul.h"
#include "worker/compute/cpu/softmax.h"

namespace mf {
namespace {

float* Scratch(ThreadScratch& scratch, int thread, size_t numbers) {
  std::vector<float>& own = scratch[static_cast<size_t>(thread)];
  if (own.size() < numbers) own.resize(numbers);
  return own.data();
}

/// Queries [begin, begin + rows) of a sequence against its keys [0, begin + rows).
struct Tile {
  size_t begin;
  size_t rows;
  bool as_vector = false;  // Product::as_vector
  size_t keys() const { return begin + rows; }
};

Tile TileOf(const AttentionShape& shape, size_t index) {
  const size_t begin = index * kQueryTile;
  return {begin, std::min(kQueryTile, shape.length - begin)};
}

size_t TileCount(const AttentionShape& shape) {
  return (shape.length + kQueryTile - 1) / kQueryTile;
}

float Scale(const AttentionShape& shape) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)));
}

/// scores [rows][keys] = scale * Q K^T.
void Scores(const AttentionShape& shape, const Tile& tile, const float* q, const float* k,
            float* scores) {
  const size_t stride = 3 * shape.width();
  Multiply({.m = tile.rows,
            .n = tile.keys(),
            .k = shape.head_dim,
            .a = {q + tile.begin * stride, stride},
            .b = {k, stride, Transpose::kYes},
            .c = scores,
            .c_stride = tile.keys(),
            .alpha = Scale(shape),
            .as_vector = tile.as_vector});
}

ScoreTile Causal(const Tile& tile) {
  return {
      .rows = tile.rows, .columns = tile.keys(), .stride = tile.keys(), .valid = tile.begin + 1};
}

/// One sequence and head: where its numbers start in [tokens][3d], [tokens][d] and [tokens][heads].
struct Place {
  size_t qkv;
  size_t out;
  size_t log_sum;
};

Place PlaceOf(const AttentionShape& shape, size_t sequence_and_head) {
  const size_t token = sequence_and_head / shape.heads * shape.length;
  const size_t head = sequence_and_head % shape.heads;
  const size_t column = head * shape.head_dim;
  return {token * 3 * shape.width() + column, token * shape.width() + column,
          token * shape.heads + head};
}

/// rows [tile.rows] of [d] and of [heads]: the tile's own.
void ForwardTile(const AttentionShape& shape, const Tile& tile, const float* q, float* scores,
                 float* rows, float* log_sums) {
  const size_t d = shape.width();
  float inverse_sums[kQueryTile];
  Scores(shape, tile, q, q + d, scores);
  ExpRows(Causal(tile), scores, inverse_sums, log_sums, shape.heads);
  Multiply({.m = tile.rows,
            .n = shape.head_dim,
            .k = tile.keys(),
            .a = {scores, tile.keys()},
            .b = {q + 2 * d, 3 * d},
            .c = rows,
            .c_stride = d,
            .as_vector = tile.as_vector});
  // Dividing here touches head_dim numbers a row, not all of its scores.
  for (size_t r = 0; r < tile.rows; ++r) {
    for (size_t i = 0; i < shape.head_dim; ++i) rows[r * d + i] *= inverse_sums[r];
  }
}

/// All sequences, or of a single one the queries from `first` on, which `out` begins with.
void ForwardQueries(const AttentionShape& shape, size_t first, bool as_vector, const float* qkv,
                    ThreadPool& pool, ThreadScratch& scratch, float* out, float* log_sums) {
  const size_t queries = shape.length - first;
  const size_t tiles = (queries + kQueryTile - 1) / kQueryTile;
  const size_t pairs = shape.sequences * shape.heads;
  pool.ParallelFor(pairs * tiles, [&](size_t i, int thread) {
    // The largest tiles first, so that threads finish together.
    const size_t row = (tiles - 1 - i / pairs) * kQueryTile;
    const Tile tile{first + row, std::min(kQueryTile, queries - row), as_vector};
    const Place at = PlaceOf(shape, i % pairs);
    ForwardTile(shape, tile, qkv + at.qkv, Scratch(scratch, thread, kQueryTile * shape.length),
                out + at.out + row * shape.width(), log_sums + at.log_sum + row * shape.heads);
  });
}

/// Tiles are taken from the last to the first: the last one has all keys and overwrites dK and dV,
/// the others add to it, in this order always.
void BackwardTile(const AttentionShape& shape, const Tile& tile, const AttentionSaved& saved,
                  const float* dout, float* scratch, float* dq) {
  const size_t d = shape.width();
  const size_t wide = 3 * d;
  const size_t keys = tile.keys();
  const float scale = Scale(shape);
  const float beta = keys == shape.length ? 0.0f : 1.0f;
  const float* q = saved.qkv;
  const float* dout_rows = dout + tile.begin * d;
  const float* out_rows = saved.out + tile.begin * d;
  float* p = scratch;
  float* ds = scratch + kQueryTile * shape.length;

  float products[kQueryTile];
  RowProducts(dout_rows, out_rows, tile.rows, shape.head_dim, d, products);
  Scores(shape, tile, q, q + d, p);
  Multiply({.m = tile.rows,
            .n = keys,
            .k = shape.head_dim,
            .a = {dout_rows, d},
            .b = {q + 2 * d, wide, Transpose::kYes},
            .c = ds,
            .c_stride = keys});
  ExpBackwardRows(Causal(tile), saved.log_sums + tile.begin * shape.heads, shape.heads, products, p,
                  ds);
  Multiply({.m = keys,
            .n = shape.head_dim,
            .k = tile.rows,
            .a = {p, keys, Transpose::kYes},
            .b = {dout_rows, d},
            .c = dq + 2 * d,
            .c_stride = wide,
            .beta = beta});
  Multiply({.m = tile.rows,
            .n = shape.head_dim,
            .k = keys,
            .a = {ds, keys},
            .b = {q + d, wide},
            .c = dq + tile.begin * wide,
            .c_stride = wide,
            .alpha = scale});
  Multiply({.m = keys,
            .n = shape.head_dim,
            .k = tile.rows,
            .a = {ds, keys, Transpose::kYes},
            .b = {q + tile.begin * wide, wide},
            .c = dq + d,
            .c_stride = wide,
            .alpha = scale,
            .beta = beta});
}

}  // namespace

void AttentionForward(const AttentionShape& shape, const float* qkv, ThreadPool& pool,
                      ThreadScratch& scratch, float* out, float* log_sums) {
  ForwardQueries(shape, 0, /*as_vector=*/false, qkv, pool, scratch, out, log_sums);
}

void AttentionFrom(size_t first, const AttentionShape& shape, const float* qkv, ThreadPool& pool,
                   ThreadScratch& scratch, float* out, float* log_sums) {
  MF_CHECK(shape.sequences == 1 && first < shape.length);
  ForwardQueries(shape, first, /*as_vector=*/true, qkv, pool, scratch, out, log_sums);
}

void AttentionBackward(const AttentionShape& shape, const AttentionSaved& saved, const float* dout,
                       ThreadPool& pool, ThreadScratch& scratch, float* dqkv) {
  pool.ParallelFor(shape.sequences * shape.heads, [&](size_t i, int thread) {
    const Place at = PlaceOf(shape, i);
    const AttentionSaved here{saved.qkv + at.qkv, saved.out + at.out, saved.log_sums + at.log_sum};
    float* tile_scratch = Scratch(scratch, thread, 2 * kQueryTile * shape.length);
    for (size_t tile = TileCount(shape); tile-- > 0;) {
      BackwardTile(shape, TileOf(shape, tile), here, dout + at.out, tile_scratch, dqkv + at.qkv);
    }
  });
}

}  // namespace mf
