#include "tests/bench/support/layer.h"

#include <algorithm>
#include <random>

#include "common/base/bf16.h"

namespace mf {

BenchLayer::BenchLayer(const LayerShape& layer_shape) : shape(layer_shape) {
  const auto [tables, rows_per_table, columns, tokens, huge, type] = shape;
  table = NewFloats(shape.table_bytes() / sizeof(float), huge);
  auto* const table_bytes = reinterpret_cast<std::byte*>(table.get());
  if (type == RowType::kBf16) {
    auto* const numbers = reinterpret_cast<uint16_t*>(table.get());
    for (size_t i = 0; i < tables * rows_per_table * columns; ++i) {
      numbers[i] = ToBf16(1e-3f * static_cast<float>(i % 1021));
    }
  }
  dy = NewFloats(tokens * columns);
  y = NewFloats(tokens * columns);
  std::mt19937 rng(2);
  buckets.resize(shape.pairs());
  rows.resize(shape.pairs());
  weights.resize(shape.pairs());
  for (size_t i = 0; i < shape.pairs(); ++i) {
    buckets[i] = static_cast<uint32_t>(rng() % rows_per_table);
    rows[i] = table_bytes + (i / tokens * rows_per_table + buckets[i]) * shape.row_bytes();
    weights[i] = 1e-3f * static_cast<float>(rng() % 1000);
  }
  for (size_t t = 0; t < tokens; ++t) {
    exponents.push_back(DotExponent(dy.get() + t * columns, columns));
  }
  for (size_t c = 0; c < columns; c += kBlock) {
    blocks.push_back({static_cast<int64_t>(c), static_cast<int64_t>(c + kBlock)});
  }
  dots.resize(shape.pairs());
  groups.resize(tables);
  const size_t most = std::min(tokens, rows_per_table);  // rows that a table's tokens can meet
  gradients = NewFloats(tables * most * columns, huge);
  first_writes = FasterFirstWrites(most * columns * sizeof(float), tables, /*read_next=*/false);
  dst.resize(tables);
  first.assign(tokens, 1);
  for (size_t k = 0; k < tables; ++k) {
    Group(k);
    for (size_t g = 0; g < groups[k].rows.size(); ++g) {
      dst[k].push_back(gradients.get() + (k * most + g) * columns);
    }
  }
}

void BenchLayer::Group(size_t k) {
  GroupByRow(&buckets[k * shape.tokens], &weights[k * shape.tokens], shape.tokens, 1, shape.rows,
             groups[k]);
}

void BenchLayer::Forward() {
  GatherReduce(batch(), 0, shape.tokens, shape.columns, y.get(), shape.columns);
}

void BenchLayer::ExactDots() {
  PairDots(batch(), 0, shape.tokens, blocks, dy.get(), shape.columns, exponents.data(),
           dots.data());
}

void BenchLayer::RowGradients(size_t width) {
  for (size_t c = 0; c < shape.columns; c += width) {
    for (size_t k = 0; k < shape.tables; ++k) {
      AccumulateRows(groups[k], 0, groups[k].rows.size(), c, c + width, dy.get(), shape.columns,
                     dst[k].data(), first.data(), first_writes);
    }
  }
}

void BenchLayer::Backward() {
  ExactDots();
  for (size_t k = 0; k < shape.tables; ++k) Group(k);
  RowGradients(shape.columns);
}

void BenchLayer::Forward(ThreadPool& pool) {
  const size_t jobs = static_cast<size_t>(pool.threads());
  pool.ParallelFor(jobs, [&](size_t job, int) {
    GatherReduce(batch(), job * shape.tokens / jobs, (job + 1) * shape.tokens / jobs, shape.columns,
                 y.get(), shape.columns);
  });
}

void BenchLayer::ExactDots(ThreadPool& pool) {
  const size_t jobs = static_cast<size_t>(pool.threads());
  pool.ParallelFor(jobs, [&](size_t job, int) {
    PairDots(batch(), job * shape.tokens / jobs, (job + 1) * shape.tokens / jobs, blocks, dy.get(),
             shape.columns, exponents.data(), dots.data());
  });
}

void BenchLayer::RowGradients(ThreadPool& pool) {
  pool.ParallelFor(shape.tables, [&](size_t k, int) {
    Group(k);
    AccumulateRows(groups[k], 0, groups[k].rows.size(), 0, shape.columns, dy.get(), shape.columns,
                   dst[k].data(), first.data(), first_writes);
  });
}

void BenchLayer::Backward(ThreadPool& pool) {
  ExactDots(pool);
  RowGradients(pool);
}

std::vector<const float*> BenchLayer::RowsByToken() const {
  std::vector<const float*> out(shape.pairs());
  for (size_t i = 0; i < shape.pairs(); ++i) {
    out[i] = static_cast<const float*>(rows[i % shape.tables * shape.tokens + i / shape.tables]);
  }
  return out;
}

}  // namespace mf
