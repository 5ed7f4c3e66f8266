#include "tests/fuzz/support/worker_requests.h"

#include <vector>

#include "common/base/bf16.h"
#include "common/kernels/pairs.h"
#include "common/kernels/wire.h"
#include "tests/support/frames.h"

namespace mf::fuzz {
namespace {

// Of the second of two servers, and of the only one.
const std::vector<uint64_t> kKeyedRows = {(uint64_t{1} << 63) + 5, ~uint64_t{0}};

std::vector<float> Numbers(size_t count) {
  std::vector<float> numbers(count);
  for (size_t i = 0; i < count; ++i) numbers[i] = static_cast<float>(i % 7) / 4 - 0.75f;
  return numbers;
}

/// Indices and weights of `tokens` tokens.
Frames PairsOf(const TensorSpec& tensor, size_t tokens) {
  const size_t pairs = static_cast<size_t>(tensor.tables * tensor.probes) * tokens;
  std::vector<uint8_t> indices(pairs);  // tables are small: one byte each
  for (size_t i = 0; i < pairs; ++i) {
    indices[i] = static_cast<uint8_t>(i % static_cast<size_t>(tensor.rows));
  }
  return {BufferOf(indices), BufferOf(Numbers(pairs))};
}

}  // namespace

Request ForwardOf(const RunDescription& run, const TensorSpec& tensor, ReadState at) {
  const auto tokens = static_cast<uint32_t>(run.rules.tokens_per_micro_batch);
  return {.body = ForwardRequest{.at = at, .tensor = tensor.id, .tokens = tokens},
          .payload = PairsOf(tensor, tokens)};
}

Request BackwardOf(const RunDescription& run, const TensorSpec& tensor, OpenStep at,
                   uint32_t micro_batch, size_t columns) {
  const auto tokens = static_cast<uint32_t>(run.rules.tokens_per_micro_batch);
  Request request{
      .body =
          BackwardRequest{
              .at = at, .tensor = tensor.id, .micro_batch = micro_batch, .tokens = tokens},
      .payload = PairsOf(tensor, tokens)};
  const std::vector<float> dy = Numbers(tokens * columns);
  std::vector<int8_t> exponents;
  for (size_t t = 0; t < tokens; ++t) {
    exponents.push_back(DotExponent(dy.data() + t * columns, columns));
  }
  Buffer wire = BufferOf(dy);
  if (run.rules.wire == Wire::kBf16) {
    wire = Buffer(dy.size() * sizeof(uint16_t));
    PackBf16(wire.data(), dy.data(), dy.size());
  }
  request.payload.push_back(wire);
  request.payload.push_back(BufferOf(exponents));
  return request;
}

Request PushOf(const TensorSpec& tensor, OpenStep at, uint32_t micro_batch, size_t columns,
               bool all) {
  if (tensor.kind == TensorKind::kKeyed) {
    return {
        .body = PushRequest{.at = at, .tensor = tensor.id, .micro_batch = micro_batch},
        .payload = {BufferOf(kKeyedRows), Frame(),
                    BufferOf(Numbers(kKeyedRows.size() * static_cast<size_t>(tensor.columns)))}};
  }
  const uint64_t rows = all ? tensor.total_rows() : 1;
  const std::vector<uint64_t> listed(all ? 0 : 1, 0);
  return {.body = PushRequest{.at = at,
                              .tensor = tensor.id,
                              .micro_batch = micro_batch,
                              .row_count = all ? rows : 0},
          .payload = {BufferOf(listed), Frame(), BufferOf(Numbers(rows * columns))}};
}

Request PullOf(const TensorSpec& tensor, ReadState at) {
  if (tensor.kind == TensorKind::kKeyed) {
    return {.body = PullRequest{.at = at, .tensor = tensor.id}, .payload = {BufferOf(kKeyedRows)}};
  }
  return {.body = PullRequest{.at = at, .tensor = tensor.id, .row_count = tensor.total_rows()},
          .payload = {Frame()}};
}

}  // namespace mf::fuzz
