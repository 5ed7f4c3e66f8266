// Causal multi-head attention. Scores live in tiles of 64 queries, so sequence x sequence numbers
// are never in memory; what is behind the diagonal is not computed except inside the diagonal tile.
#pragma once

#include <cstddef>
#include <vector>

#include "common/base/thread_pool.h"

namespace mf {

inline constexpr size_t kQueryTile = 64;

struct AttentionShape {
  size_t sequences = 0;
  size_t length = 0;
  size_t heads = 0;
  size_t head_dim = 0;

  size_t width() const { return heads * head_dim; }  // d
  size_t tokens() const { return sequences * length; }
};

/// Scratch by thread of the pool; grows when needed.
using ThreadScratch = std::vector<std::vector<float>>;

/// out [tokens][d] from qkv [tokens][3d], queries and keys already rotated. log_sums
/// [tokens][heads] is what the backward pass needs.
void AttentionForward(const AttentionShape& shape, const float* qkv, ThreadPool& pool,
                      ThreadScratch& scratch, float* out, float* log_sums);

/// The same for the queries of one sequence from token `first` on: out [length - first][d] and
/// log_sums [length - first][heads] from qkv [length][3d].
void AttentionFrom(size_t first, const AttentionShape& shape, const float* qkv, ThreadPool& pool,
                   ThreadScratch& scratch, float* out, float* log_sums);

struct AttentionSaved {
  const float* qkv = nullptr;       // [tokens][3d]
  const float* out = nullptr;       // [tokens][d]
  const float* log_sums = nullptr;  // [tokens][heads]
};

/// dqkv [tokens][3d], overwritten, from dout [tokens][d]; probabilities are computed again.
void AttentionBackward(const AttentionShape& shape, const AttentionSaved& saved, const float* dout,
                       ThreadPool& pool, ThreadScratch& scratch, float* dqkv);

}  // namespace mf
