// Token embedding: rows of a matrix [vocabulary][width].
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/base/thread_pool.h"

namespace mf {

struct EmbeddingShape {
  size_t tokens = 0;
  size_t vocabulary = 0;
  size_t width = 0;
};

/// x [tokens][width] = rows of `matrix`, overwritten.
void EmbeddingForward(const EmbeddingShape& shape, const float* matrix, const uint32_t* ids,
                      ThreadPool& pool, float* x);

/// The tokens that occur, rising: the rows of the matrix that have a gradient.
std::vector<uint64_t> DistinctTokens(const std::vector<uint32_t>& tokens);

/// The gradient of these rows, drows [distinct][width], overwritten: rows of dx [tokens][width]
/// added in token order. `distinct`: DistinctTokens() of `ids`.
void EmbeddingBackward(const EmbeddingShape& shape, const uint32_t* ids,
                       const std::vector<uint64_t>& distinct, const float* dx, ThreadPool& pool,
                       float* drows);

}  // namespace mf
