#include "tests/support/naive_exchange.h"

#include <algorithm>

#include "common/base/check.h"

namespace mf {
namespace {

uint32_t IndexAt(const Hashes& hashes, size_t at) {
  switch (hashes.index_bytes) {
    case 1:
      return hashes.indices.as<uint8_t>()[at];
    case 2:
      return hashes.indices.as<uint16_t>()[at];
    default:
      return hashes.indices.as<uint32_t>()[at];
  }
}

size_t RowAt(const TensorSpec& tensor, const Hashes& hashes, size_t pair, size_t token) {
  const size_t table = pair / hashes.probes;
  const size_t bucket = IndexAt(hashes, pair * hashes.tokens + token);
  MF_CHECK(bucket < static_cast<size_t>(tensor.rows));
  return (table * static_cast<size_t>(tensor.rows) + bucket) * static_cast<size_t>(tensor.columns);
}

}  // namespace

NaiveExchange::NaiveExchange(const std::vector<TensorSpec>& tensors, DenseTensors tables,
                             bool serves_rows)
    : serves_rows_(serves_rows), tables_(std::move(tables)), buckets_(tensors.size()) {
  MF_CHECK(tables_.size() == tensors.size());
  Clear();
}

void NaiveExchange::Clear() {
  gradients_.clear();
  for (const auto& table : tables_) gradients_.emplace_back(table.size(), 0.0f);
}

Status NaiveExchange::Forward(const TensorSpec& tensor, const Hashes& hashes, float* y) {
  const size_t columns = static_cast<size_t>(tensor.columns);
  const std::vector<float>& table = tables_[tensor.id];
  MF_CHECK(hashes.index_bytes == tensor.index_bytes());
  std::vector<uint32_t>& seen = buckets_[tensor.id];
  seen.resize(hashes.pairs * hashes.tokens);
  std::fill_n(y, hashes.tokens * columns, 0.0f);
  for (size_t pair = 0; pair < hashes.pairs; ++pair) {
    for (size_t t = 0; t < hashes.tokens; ++t) {
      const float weight = hashes.weights.as<float>()[pair * hashes.tokens + t];
      const float* row = table.data() + RowAt(tensor, hashes, pair, t);
      for (size_t c = 0; c < columns; ++c) y[t * columns + c] += weight * row[c];
      seen[pair * hashes.tokens + t] = IndexAt(hashes, pair * hashes.tokens + t);
    }
  }
  return Status::Ok();
}

Status NaiveExchange::Backward(const TensorSpec& tensor, const Hashes& hashes, const Buffer& dy,
                               float* dweights) {
  const size_t columns = static_cast<size_t>(tensor.columns);
  MF_CHECK(dy.size() == hashes.tokens * columns * sizeof(float));
  const std::vector<float>& table = tables_[tensor.id];
  std::vector<float>& gradient = gradients_[tensor.id];
  for (size_t pair = 0; pair < hashes.pairs; ++pair) {
    for (size_t t = 0; t < hashes.tokens; ++t) {
      const size_t at = pair * hashes.tokens + t;
      const size_t row = RowAt(tensor, hashes, pair, t);
      const float weight = hashes.weights.as<float>()[at];
      const float* dyt = dy.as<float>() + t * columns;
      float dot = 0;
      for (size_t c = 0; c < columns; ++c) {
        dot += table[row + c] * dyt[c];
        gradient[row + c] += weight * dyt[c];
      }
      dweights[at] = dot;
    }
  }
  return Status::Ok();
}

Status NaiveExchange::PullRows(const TensorSpec& tensor, const Frame& rows, float* values) {
  const size_t columns = static_cast<size_t>(tensor.columns);
  for (size_t i = 0; i < rows.size() / sizeof(uint64_t); ++i) {
    const uint64_t row = LoadUnaligned<uint64_t>(rows.data(), i);
    MF_CHECK(row < tensor.total_rows());
    std::copy_n(&tables_[tensor.id][row * columns], columns, values + i * columns);
  }
  return Status::Ok();
}

void NaiveExchange::SendGradient(const TensorSpec& tensor, const Hashes& hashes, const Buffer& dy) {
  std::vector<uint32_t>& seen = buckets_[tensor.id];
  seen.clear();
  for (size_t at = 0; at < hashes.pairs * hashes.tokens; ++at) seen.push_back(IndexAt(hashes, at));
  std::vector<float> dweights(hashes.pairs * hashes.tokens);
  MF_CHECK(Backward(tensor, hashes, dy, dweights.data()).ok());
}

void NaiveExchange::PushRows(const TensorSpec& tensor, const Frame& rows, const Frame&,
                             const Frame& values) {
  const size_t columns = static_cast<size_t>(tensor.columns);
  for (size_t i = 0; i < rows.size() / sizeof(uint64_t); ++i) {
    float* gradient = &gradients_[tensor.id][LoadUnaligned<uint64_t>(rows.data(), i) * columns];
    for (size_t c = 0; c < columns; ++c) gradient[c] += values.as<float>()[i * columns + c];
  }
}

}  // namespace mf
