#include "worker/export/local_exchange.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/kernels/pairs.h"

namespace mf {
namespace {

constexpr size_t kLanes = 16;  // kernels read rows in units of 16 columns
// Tokens of one piece of work: enough to reuse rows of small tables in cache, small enough that
// padded copies of the rows (16 tokens of 128 tables of 4 KiB) stay near 8 MiB.
constexpr size_t kTokensPerRange = 64;
constexpr size_t kTokensPerPaddedRange = 16;

uint32_t BucketAt(const Hashes& hashes, size_t at) {
  const void* indices = hashes.indices.data();
  if (hashes.index_bytes == 1) return LoadUnaligned<uint8_t>(indices, at);
  if (hashes.index_bytes == 2) return LoadUnaligned<uint16_t>(indices, at);
  return LoadUnaligned<uint32_t>(indices, at);
}

/// Rows, weights and padded copies of one range of tokens; one per thread.
struct Scratch {
  std::vector<const void*> rows;
  std::vector<float> weights;
  std::vector<float> padded;
};

/// Tokens [begin, end) as a batch of their own.
void ForwardRange(const TensorSpec& tensor, const float* table, const Hashes& hashes, size_t begin,
                  size_t end, Scratch& scratch, float* y) {
  const size_t tokens = end - begin;
  const size_t columns = static_cast<size_t>(tensor.columns);
  const size_t stride = (columns + kLanes - 1) / kLanes * kLanes;
  const bool copy = stride != columns;
  scratch.rows.resize(hashes.pairs * tokens);
  scratch.weights.resize(hashes.pairs * tokens);
  if (copy) scratch.padded.assign(hashes.pairs * tokens * stride, 0.0f);
  for (size_t p = 0; p < hashes.pairs; ++p) {
    const size_t first_row = p / hashes.probes * static_cast<size_t>(tensor.rows);
    for (size_t t = 0; t < tokens; ++t) {
      const size_t bucket = BucketAt(hashes, p * hashes.tokens + begin + t);
      const float* row = table + (first_row + bucket) * columns;
      const size_t at = p * tokens + t;
      if (copy) {
        float* padded = scratch.padded.data() + at * stride;
        std::memcpy(padded, row, columns * sizeof(float));
        row = padded;
      }
      scratch.rows[at] = row;
    }
    std::memcpy(scratch.weights.data() + p * tokens,
                hashes.weights.as<float>() + p * hashes.tokens + begin, tokens * sizeof(float));
  }
  PairBatch batch;
  batch.tokens = tokens;
  batch.pairs = hashes.pairs;
  batch.rows = scratch.rows.data();
  batch.weights = scratch.weights.data();
  GatherReduce(batch, 0, tokens, columns, y + begin * columns, columns);
}

}  // namespace

Status LocalExchange::Forward(const TensorSpec& tensor, const Hashes& hashes, float* y) {
  const float* table = model_.table(tensor);
  MF_CHECK(table != nullptr);
  MF_CHECK(hashes.pairs == static_cast<size_t>(tensor.tables) * hashes.probes);
  MF_CHECK(hashes.index_bytes == tensor.index_bytes());
  const size_t step =
      static_cast<size_t>(tensor.columns) % kLanes == 0 ? kTokensPerRange : kTokensPerPaddedRange;
  std::vector<Scratch> scratch(static_cast<size_t>(pool_.threads()));
  pool_.ParallelFor((hashes.tokens + step - 1) / step, [&](size_t range, int thread) {
    const size_t begin = range * step;
    const size_t end = std::min(hashes.tokens, begin + step);
    ForwardRange(tensor, table, hashes, begin, end, scratch[static_cast<size_t>(thread)], y);
  });
  return Status::Ok();
}

Status LocalExchange::Backward(const TensorSpec& tensor, const Hashes&, const Buffer&, float*) {
  return Status::Failed("tensor " + tensor.name + ": a loaded file cannot be trained");
}

}  // namespace mf
