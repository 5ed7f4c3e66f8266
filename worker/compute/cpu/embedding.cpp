#include "worker/compute/cpu/embedding.h"

#include <algorithm>

#include "worker/compute/cpu/chunks.h"

namespace mf {
namespace {

// Columns of the gradient per task: every number has one writer, who sees all tokens in order.
constexpr size_t kColumnsPerTask = 32;

}  // namespace

void EmbeddingForward(const EmbeddingShape& shape, const float* matrix, const uint32_t* ids,
                      ThreadPool& pool, float* x) {
  ForChunks(shape.tokens, pool, [&](const Chunk& chunk) {
    for (size_t t = chunk.begin; t < chunk.begin + chunk.count; ++t) {
      std::copy_n(matrix + ids[t] * shape.width, shape.width, x + t * shape.width);
    }
  });
}

void EmbeddingBackward(const EmbeddingShape& shape, const uint32_t* ids,
                       const std::vector<uint64_t>& distinct, const float* dx, ThreadPool& pool,
                       float* drows) {
  std::vector<size_t> row_of(shape.tokens);
  for (size_t t = 0; t < shape.tokens; ++t) {
    row_of[t] = static_cast<size_t>(
        std::lower_bound(distinct.begin(), distinct.end(), uint64_t{ids[t]}) - distinct.begin());
  }
  const size_t tasks = (shape.width + kColumnsPerTask - 1) / kColumnsPerTask;
  pool.ParallelFor(tasks, [&](size_t task, int) {
    const size_t begin = task * kColumnsPerTask;
    const size_t count = std::min(kColumnsPerTask, shape.width - begin);
    for (size_t row = 0; row < distinct.size(); ++row) {
      std::fill_n(drows + row * shape.width + begin, count, 0.0f);
    }
    for (size_t t = 0; t < shape.tokens; ++t) {
      const float* from = dx + t * shape.width + begin;
      float* to = drows + row_of[t] * shape.width + begin;
      for (size_t i = 0; i < count; ++i) to[i] += from[i];
    }
  });
}

std::vector<uint64_t> DistinctTokens(const std::vector<uint32_t>& tokens) {
  std::vector<uint64_t> distinct(tokens.begin(), tokens.end());
  std::sort(distinct.begin(), distinct.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  return distinct;
}

}  // namespace mf
