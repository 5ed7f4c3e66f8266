#include "worker/remote_exchange.h"

#include <algorithm>
#include <cstring>

#include "common/kernels/pairs.h"

namespace mf {
namespace {

constexpr size_t kTokensPerJob = 64;

uint32_t BucketAt(const Hashes& hashes, size_t i) {
  switch (hashes.index_bytes) {
    case 1:
      return hashes.indices.as<uint8_t>()[i];
    case 2:
      return hashes.indices.as<uint16_t>()[i];
    default:
      return hashes.indices.as<uint32_t>()[i];
  }
}

}  // namespace

Status RemoteExchange::WaitOutside(Pending pending) {
  gate_.unlock();
  Status status = pending.Wait();
  gate_.lock();
  return status;
}

Status RemoteExchange::Forward(const TensorSpec& tensor, const Hashes& hashes, float* y) {
  if (tensor.mode == ExchangeMode::kPull) return ForwardPull(tensor, hashes, y);
  return WaitOutside(
      tables_.Forward(at_, access_, tensor, hashes.tokens, hashes.indices, hashes.weights, y));
}

Status RemoteExchange::Backward(const TensorSpec& tensor, const Hashes& hashes, const Buffer& dy,
                                float* dweights) {
  if (tensor.mode == ExchangeMode::kPull) return BackwardPull(tensor, hashes, dy, dweights);
  return WaitOutside(tables_.Backward(at_, micro_batch_, tensor, hashes.tokens, hashes.indices,
                                      hashes.weights, dy.as<float>(), dweights));
}

void RemoteExchange::FindDistinct(const TensorSpec& tensor, const Hashes& hashes, Pulled* pulled) {
  const size_t tables = static_cast<size_t>(tensor.tables);
  const size_t per_table = hashes.probes * hashes.tokens;
  const uint64_t rows_per_table = static_cast<uint64_t>(tensor.rows);
  pulled->buckets.resize(tables * per_table);
  for (size_t i = 0; i < pulled->buckets.size(); ++i) pulled->buckets[i] = BucketAt(hashes, i);
  std::vector<std::vector<uint32_t>> sorted(tables);
  pool_.ParallelFor(tables, [&](size_t k, int) {
    const auto begin = pulled->buckets.begin() + static_cast<ptrdiff_t>(k * per_table);
    sorted[k].assign(begin, begin + static_cast<ptrdiff_t>(per_table));
    std::sort(sorted[k].begin(), sorted[k].end());
  });
  pulled->table_begin.push_back(0);
  for (size_t k = 0; k < tables; ++k) {
    for (size_t i = 0; i < per_table; ++i) {
      if (i > 0 && sorted[k][i] == sorted[k][i - 1]) {
        ++pulled->hits.back();
        continue;
      }
      pulled->rows.push_back(k * rows_per_table + sorted[k][i]);
      pulled->hits.push_back(1);
    }
    pulled->table_begin.push_back(pulled->rows.size());
  }
}

Status RemoteExchange::ForwardPull(const TensorSpec& tensor, const Hashes& hashes, float* y) {
  Pulled& pulled = pulled_[tensor.id];
  pulled = Pulled();
  FindDistinct(tensor, hashes, &pulled);
  const size_t columns = static_cast<size_t>(tensor.columns);
  std::vector<float> packed(pulled.rows.size() * columns);
  MF_RETURN_IF_ERROR(WaitOutside(tables_.Pull(at_, access_, tensor, pulled.rows, packed.data())));
  pulled.stride = (columns + 15) / 16 * 16;
  if (pulled.stride == columns) {
    pulled.values = std::move(packed);
  } else {
    pulled.values.assign(pulled.rows.size() * pulled.stride, 0.0f);
    for (size_t r = 0; r < pulled.rows.size(); ++r) {
      std::memcpy(&pulled.values[r * pulled.stride], &packed[r * columns], columns * sizeof(float));
    }
  }
  pulled.row_pointers.resize(pulled.buckets.size());
  const size_t per_table = hashes.probes * hashes.tokens;
  const uint64_t rows_per_table = static_cast<uint64_t>(tensor.rows);
  pool_.ParallelFor(static_cast<size_t>(tensor.tables), [&](size_t k, int) {
    const auto first = pulled.rows.begin() + static_cast<ptrdiff_t>(pulled.table_begin[k]);
    const auto last = pulled.rows.begin() + static_cast<ptrdiff_t>(pulled.table_begin[k + 1]);
    for (size_t i = k * per_table; i < (k + 1) * per_table; ++i) {
      const auto row = std::lower_bound(first, last, k * rows_per_table + pulled.buckets[i]);
      const size_t position = static_cast<size_t>(row - pulled.rows.begin());
      pulled.row_pointers[i] = &pulled.values[position * pulled.stride];
    }
  });
  const PairBatch batch{hashes.tokens, hashes.pairs, pulled.row_pointers.data(),
                        hashes.weights.data()};
  const size_t jobs = (hashes.tokens + kTokensPerJob - 1) / kTokensPerJob;
  pool_.ParallelFor(jobs, [&](size_t job, int) {
    GatherReduce(batch, job * kTokensPerJob, std::min(hashes.tokens, (job + 1) * kTokensPerJob),
                 columns, y, columns);
  });
  if (access_ == Access::kReading) pulled_.erase(tensor.id);
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
  std::vector<int8_t> exponents(tokens);
  for (size_t t = 0; t < tokens; ++t) exponents[t] = DotExponent(gradient + t * columns, columns);
  const std::vector<ColumnRange> blocks = ColumnBlocks(tensor.columns, config_.model.column_blocks);
  const PairBatch batch{tokens, hashes.pairs, pulled.row_pointers.data(), hashes.weights.data()};
  std::vector<int64_t> dots(hashes.pairs * tokens);
  const size_t jobs = (tokens + kTokensPerJob - 1) / kTokensPerJob;
  pool_.ParallelFor(jobs, [&](size_t job, int) {
    const size_t begin = job * kTokensPerJob, end = std::min(tokens, begin + kTokensPerJob);
    PairDots(batch, begin, end, blocks, gradient, columns, exponents.data(), dots.data());
    for (size_t p = 0; p < hashes.pairs; ++p) {
      for (size_t t = begin; t < end; ++t) {
        dweights[p * tokens + t] = DotValue(dots[p * tokens + t], exponents[t]);
      }
    }
  });

  std::vector<float> sums(pulled.rows.size() * pulled.stride);
  const size_t per_table = hashes.probes * tokens;
  pool_.ParallelFor(static_cast<size_t>(tensor.tables), [&](size_t k, int) {
    RowGroups groups;
    GroupByRow(&pulled.buckets[k * per_table], hashes.weights.as<float>() + k * per_table, tokens,
               hashes.probes, static_cast<uint64_t>(tensor.rows), groups);
    // Groups rise by bucket, exactly as the pulled rows of this table do.
    std::vector<float*> destinations(groups.rows.size());
    for (size_t g = 0; g < groups.rows.size(); ++g) {
      destinations[g] = &sums[(pulled.table_begin[k] + g) * pulled.stride];
    }
    const std::vector<uint8_t> first(groups.rows.size(), 1);
    AccumulateRows(groups, 0, groups.rows.size(), 0, columns, gradient, columns,
                   destinations.data(), first.data());
  });
  if (pulled.stride != columns) {
    for (size_t r = 0; r < pulled.rows.size(); ++r) {
      std::memmove(&sums[r * columns], &sums[r * pulled.stride], columns * sizeof(float));
    }
  }
  pushes_.push_back(tables_.Push(at_, micro_batch_, tensor, pulled.rows, pulled.hits, sums.data()));
  pulled_.erase(found);
  return Status::Ok();
}

Status RemoteExchange::Finish() {
  Status status;
  gate_.unlock();
  for (Pending& push : pushes_) {
    if (Status pushed = push.Wait(); status.ok()) status = pushed;
  }
  gate_.lock();
  pushes_.clear();
  return status;
}

}  // namespace mf
