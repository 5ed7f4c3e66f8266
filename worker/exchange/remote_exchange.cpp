#include "worker/exchange/remote_exchange.h"

#include <algorithm>
#include <cstring>

#include "common/kernels/wire.h"

namespace mf {
namespace {

constexpr size_t kTokensPerJob = 64;  // at least

}  // namespace

Status RemoteExchange::WaitOutside(std::span<Pending> pending) {
  Status status;
  gate_.Unlock();
  for (Pending& one : pending) {
    if (Status ended = one.Wait(); status.ok()) status = ended;
  }
  gate_.Lock();
  return status;
}

/// A pass takes as long as it takes: who is to end does not finish it.
Status RemoteExchange::CheckStopping() const {
  if (stopping_ == nullptr || !stopping_->load()) return Status::Ok();
  return {Code::kUnavailable, "this worker ends"};
}

Status RemoteExchange::Forward(const TensorSpec& tensor, const Hashes& hashes, float* y) {
  gate_.AssertHeld();  // by whoever calls, here and below
  MF_RETURN_IF_ERROR(CheckStopping());
  if (tensor.mode == ExchangeMode::kPull) return ForwardPull(tensor, hashes, y);
  return WaitOutside(
      tables_.Forward(at_, tensor, hashes.tokens, hashes.indices, hashes.weights, y));
}

Status RemoteExchange::Backward(const TensorSpec& tensor, const Hashes& hashes, const Buffer& dy,
                                float* dweights) {
  gate_.AssertHeld();
  MF_RETURN_IF_ERROR(CheckStopping());
  if (tensor.mode == ExchangeMode::kPull) return BackwardPull(tensor, hashes, dy, dweights);
  return WaitOutside(tables_.Backward(std::get<OpenStep>(at_), micro_batch_, tensor, hashes.tokens,
                                      hashes.indices, hashes.weights, dy, dweights));
}

/// Grouping the pairs of each table by row tells which rows are met, how often, and by which pairs:
/// nothing is searched, and the backward pass has its groups.
void RemoteExchange::FindDistinct(const TensorSpec& tensor, const Hashes& hashes, Pulled* pulled) {
  const size_t tables = static_cast<size_t>(tensor.tables);
  const size_t per_table = hashes.probes * hashes.tokens;
  const uint64_t rows_per_table = static_cast<uint64_t>(tensor.rows);
  pulled->buckets = Buffer(tables * per_table * sizeof(uint32_t));
  pulled->groups.resize(tables);
  pool_.ParallelFor(tables, [&](size_t k, int) {
    uint32_t* buckets = pulled->buckets.as<uint32_t>() + k * per_table;
    WidenIndices(hashes.indices.data() + k * per_table * static_cast<size_t>(hashes.index_bytes),
                 hashes.index_bytes, per_table, buckets);
    GroupByRow(buckets, hashes.weights.as<float>() + k * per_table, hashes.tokens, hashes.probes,
               rows_per_table, pulled->groups[k]);
  });
  pulled->table_begin.assign(1, 0);
  for (const RowGroups& groups : pulled->groups) {
    pulled->table_begin.push_back(pulled->table_begin.back() + groups.rows.size());
  }
  pulled->rows = Buffer(pulled->table_begin.back() * sizeof(uint64_t));
  pulled->hits = Buffer(pulled->table_begin.back() * sizeof(uint32_t));
  pool_.ParallelFor(tables, [&](size_t k, int) {
    const RowGroups& groups = pulled->groups[k];
    uint64_t* rows = pulled->rows.as<uint64_t>() + pulled->table_begin[k];
    uint32_t* hits = pulled->hits.as<uint32_t>() + pulled->table_begin[k];
    for (size_t g = 0; g < groups.rows.size(); ++g) {
      rows[g] = k * rows_per_table + groups.rows[g];
      hits[g] = groups.begin[g + 1] - groups.begin[g];
    }
  });
}

/// Where each pair finds its row among the pulled ones, and zeros behind the columns of those.
void RemoteExchange::PointToRows(const TensorSpec& tensor, const Hashes& hashes, Pulled* pulled) {
  const size_t tokens = hashes.tokens, probes = hashes.probes;
  const size_t columns = static_cast<size_t>(tensor.columns), stride = pulled->stride;
  pulled->row_pointers = Buffer(hashes.pairs * tokens * sizeof(const void*));
  pool_.ParallelFor(static_cast<size_t>(tensor.tables), [&](size_t k, int) {
    const RowGroups& groups = pulled->groups[k];
    const uint32_t* buckets = pulled->buckets.as<uint32_t>() + k * probes * tokens;
    const void** pointers = pulled->row_pointers.as<const void*>() + k * probes * tokens;
    float* row = pulled->values.as<float>() + pulled->table_begin[k] * stride;
    for (size_t g = 0; g < groups.rows.size(); ++g, row += stride) {
      std::fill(row + columns, row + stride, 0.0f);
      for (size_t i = groups.begin[g]; i < groups.begin[g + 1]; ++i) {
        for (size_t pair = groups.token[i]; pair < probes * tokens; pair += tokens) {
          if (buckets[pair] == groups.rows[g]) pointers[pair] = row;  // which of the token's probes
        }
      }
    }
  });
}

Status RemoteExchange::ForwardPull(const TensorSpec& tensor, const Hashes& hashes, float* y) {
  Pulled& pulled = pulled_[tensor.id];
  pulled = Pulled();
  FindDistinct(tensor, hashes, &pulled);
  const size_t columns = static_cast<size_t>(tensor.columns);
  pulled.stride = PaddedColumns(columns);
  pulled.values = Buffer(pulled.table_begin.back() * pulled.stride * sizeof(float));
  Pending pull = tables_.Pull(at_, tensor, pulled.rows, pulled.values.as<float>(), pulled.stride);
  PointToRows(tensor, hashes, &pulled);  // meanwhile
  MF_RETURN_IF_ERROR(WaitOutside(std::move(pull)));
  const PairBatch batch{hashes.tokens, hashes.pairs, pulled.row_pointers.as<const void*>(),
                        hashes.weights.data()};
  pool_.ParallelRanges(hashes.tokens, kTokensPerJob, [&](size_t begin, size_t end) {
    GatherReduce(batch, begin, end, columns, y, columns);
  });
  if (!IsTraining(at_)) pulled_.erase(tensor.id);
  return Status::Ok();
}

Status RemoteExchange::BackwardPull(const TensorSpec& tensor, const Hashes& hashes,
                                    const Buffer& dy, float* dweights) {
  const auto found = pulled_.find(tensor.id);
  MF_CHECK(found != pulled_.end());
  const Pulled& pulled = found->second;
  const size_t columns = static_cast<size_t>(tensor.columns);
  const size_t tokens = hashes.tokens;
  const float* gradient = dy.as<float>();

  // The same dots as a server's, with all blocks in one place.
  const Buffer exponents(tokens), dots(hashes.pairs * tokens * sizeof(int64_t));
  const std::vector<ColumnRange> blocks =
      ColumnBlocks(tensor.columns, tables_.run().rules.column_blocks);
  const PairBatch batch{tokens, hashes.pairs, pulled.row_pointers.as<const void*>(),
                        hashes.weights.data()};
  pool_.ParallelRanges(tokens, kTokensPerJob, [&](size_t begin, size_t end) {
    int8_t* e = exponents.as<int8_t>();
    for (size_t t = begin; t < end; ++t) e[t] = DotExponent(gradient + t * columns, columns);
    PairDots(batch, begin, end, blocks, gradient, columns, e, dots.as<int64_t>());
  });
  const void* const parts[] = {dots.data()};
  DotValues(parts, hashes.pairs, tokens, exponents.as<int8_t>(), dweights);

  const size_t rows = pulled.table_begin.back();
  const Buffer sums(rows * pulled.stride * sizeof(float));
  pool_.ParallelFor(static_cast<size_t>(tensor.tables), [&](size_t k, int) {
    const RowGroups& groups = pulled.groups[k];
    std::vector<float*> destinations(groups.rows.size());
    for (size_t g = 0; g < groups.rows.size(); ++g) {
      destinations[g] = sums.as<float>() + (pulled.table_begin[k] + g) * pulled.stride;
    }
    const std::vector<uint8_t> first(groups.rows.size(), 1);
    AccumulateRows(groups, 0, groups.rows.size(), 0, columns, gradient, columns,
                   destinations.data(), first.data());
  });
  if (pulled.stride != columns) {
    for (size_t r = 0; r < rows; ++r) {
      std::memmove(sums.as<float>() + r * columns, sums.as<float>() + r * pulled.stride,
                   columns * sizeof(float));
    }
  }
  const Frame values(sums.owner(), sums.data(), rows * columns * sizeof(float));
  PushRows(tensor, pulled.rows, pulled.hits, values);
  pulled_.erase(found);
  return Status::Ok();
}

FinishedStep RemoteExchange::state() const { return FinishedStepOf(at_); }

Status RemoteExchange::PullRows(const TensorSpec& tensor, const Frame& rows, float* values) {
  gate_.AssertHeld();
  return WaitOutside(tables_.Pull(at_, tensor, rows, values, static_cast<size_t>(tensor.columns)));
}

void RemoteExchange::SendGradient(const TensorSpec& tensor, const Hashes& hashes,
                                  const Buffer& dy) {
  pushes_.push_back(tables_.Backward(std::get<OpenStep>(at_), micro_batch_, tensor, hashes.tokens,
                                     hashes.indices, hashes.weights, dy, nullptr));
}

void RemoteExchange::PushRows(const TensorSpec& tensor, const Frame& rows, const Frame& hits,
                              const Frame& values) {
  pushes_.push_back(
      tables_.Push(std::get<OpenStep>(at_), micro_batch_, tensor, rows, hits, values));
}

Status RemoteExchange::Finish() {
  gate_.AssertHeld();
  const Status status = WaitOutside(pushes_);
  pushes_.clear();
  return status;
}

}  // namespace mf
