// Loops over tokens in chunks of 64. A sum over tokens (gains, biases) is one partial sum per
// chunk, added in chunk order, so that it does not depend on the number of threads (DESIGN 2.3).
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "common/base/thread_pool.h"

namespace mf {

inline constexpr size_t kTokenChunk = 64;

struct Chunk {
  size_t index = 0;
  size_t begin = 0;  // first token
  size_t count = 0;
  int thread = 0;
};

inline size_t ChunkCount(size_t tokens) { return (tokens + kTokenChunk - 1) / kTokenChunk; }

/// Tokens whose logits, [rows][vocabulary], take about `bytes`: whole chunks, at least one, no more
/// than there are; by the shape only.
inline size_t SliceRows(size_t bytes, size_t vocabulary, size_t tokens) {
  const size_t rows = bytes / (vocabulary * sizeof(float)) / kTokenChunk * kTokenChunk;
  return std::clamp(rows, kTokenChunk, ChunkCount(tokens) * kTokenChunk);
}

template <class Body>
void ForChunks(size_t tokens, ThreadPool& pool, const Body& body) {
  pool.ParallelFor(ChunkCount(tokens), [&](size_t i, int thread) {
    const size_t begin = i * kTokenChunk;
    body(Chunk{i, begin, std::min(kTokenChunk, tokens - begin), thread});
  });
}

/// sums [width] = sum over rows of x [rows][width], rising; overwritten.
inline void SumRows(const float* x, size_t rows, size_t width, float* sums) {
  std::fill_n(sums, width, 0.0f);
  for (size_t row = 0; row < rows; ++row) {
    for (size_t i = 0; i < width; ++i) sums[i] += x[row * width + i];
  }
}

/// Partial sums of `width` numbers per chunk.
class ChunkSums {
 public:
  void Reset(size_t tokens, size_t width) {
    chunks_ = ChunkCount(tokens);
    width_ = width;
    sums_.resize(chunks_ * width);
  }
  float* At(size_t chunk) { return sums_.data() + chunk * width_; }

  /// out [end - begin] = the totals of numbers [begin, end) of the width.
  void Total(size_t begin, size_t end, std::vector<float>* out) const {
    out->assign(end - begin, 0.0f);
    for (size_t chunk = 0; chunk < chunks_; ++chunk) {
      const float* part = sums_.data() + chunk * width_ + begin;
      for (size_t i = 0; i < out->size(); ++i) (*out)[i] += part[i];
    }
  }

 private:
  size_t chunks_ = 0;
  size_t width_ = 0;
  std::vector<float> sums_;  // [chunks][width]
};

}  // namespace mf
