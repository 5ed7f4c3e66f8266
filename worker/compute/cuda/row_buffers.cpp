#include "worker/compute/cuda/row_buffers.h"

#include <algorithm>

namespace mf::cuda {
namespace {

constexpr size_t kPullBytes = size_t{64} << 20;

Pairs ShapeOf(const TensorSpec& tensor, size_t tokens, size_t probes) {
  Pairs pairs;
  pairs.tokens = tokens;
  pairs.tables = static_cast<size_t>(tensor.tables);
  pairs.probes = probes;
  pairs.rows_per_table = static_cast<size_t>(tensor.rows);
  pairs.index_bytes = tensor.index_bytes();
  return pairs;
}

}  // namespace

void LayOutRows(const std::vector<TensorSpec>& tensors, size_t tokens, size_t probes,
                Layout& layout, RowBuffers* rows) {
  size_t most_rows = 0, entries = 0, scratch = 0, values = 0, gradients = 0;
  for (const TensorSpec& tensor : tensors) {
    if (!tensor.on_device) continue;
    const Pairs pairs = ShapeOf(tensor, tokens, probes);
    const size_t columns = static_cast<size_t>(tensor.columns);
    most_rows = std::max(most_rows, pairs.most_rows());
    entries = std::max(entries, pairs.entries());
    scratch = std::max(scratch, RowGroupsScratchBytes(pairs));
    values = std::max(values, std::min(pairs.most_rows(), PullAtOnce(columns)) * columns);
    if (tensor.mode == ExchangeMode::kPull) {
      gradients = std::max(gradients, pairs.most_rows() * columns);
    }
  }
  if (most_rows == 0) return;
  layout.Take(most_rows, &rows->groups.rows);
  layout.Take(most_rows + 1, &rows->groups.begin);
  layout.Take(entries, &rows->groups.entries);
  layout.Take(1, &rows->groups.count);
  std::byte* bytes = nullptr;
  layout.Take(scratch, &bytes);
  rows->groups.scratch = bytes;
  layout.Take(most_rows, &rows->stale);
  layout.Take(1, &rows->stale_count);
  layout.Take(values, &rows->values);
  if (gradients == 0) return;
  layout.Take(gradients, &rows->gradients);
  layout.Take(most_rows, &rows->hits);
}

size_t PullAtOnce(size_t columns) {
  return std::max<size_t>(1, kPullBytes / (columns * sizeof(float)));
}

}  // namespace mf::cuda
