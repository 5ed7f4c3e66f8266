#include "tests/bench/layer.h"

#include <random>

namespace mf {

BenchLayer::BenchLayer(const LayerShape& layer_shape) : shape(layer_shape) {
  const auto [tables, rows_per_table, columns, tokens] = shape;
  table = NewFloats(tables * rows_per_table * columns);
  dy = NewFloats(tokens * columns);
  y = NewFloats(tokens * columns);
  std::mt19937 rng(2);
  buckets.resize(shape.pairs());
  rows.resize(shape.pairs());
  weights.resize(shape.pairs());
  for (size_t i = 0; i < shape.pairs(); ++i) {
    buckets[i] = static_cast<uint32_t>(rng() % rows_per_table);
    rows[i] = table.get() + (i / tokens * rows_per_table + buckets[i]) * columns;
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
  gradients = NewFloats(shape.pairs() * columns);
  dst.resize(tables);
  first.assign(tokens, 1);
  for (size_t k = 0; k < tables; ++k) {
    Group(k);
    for (size_t g = 0; g < groups[k].rows.size(); ++g) {
      dst[k].push_back(gradients.get() + (k * tokens + g) * columns);
    }
    order.insert(order.end(), groups[k].token.begin(), groups[k].token.end());
  }
}

void BenchLayer::Group(size_t k) {
  GroupByRow(&buckets[k * shape.tokens], &weights[k * shape.tokens], shape.tokens, 1, shape.rows,
             groups[k]);
}

void BenchLayer::Forward() {
  GatherReduce(batch(), 0, shape.tokens, shape.columns, y.get(), shape.columns);
}

void BenchLayer::ForwardGrouped() {
  GatherReduceGrouped(batch(), order.data(), 0, shape.columns, y.get(), shape.columns);
}

void BenchLayer::ExactDots() {
  PairDots(batch(), 0, shape.tokens, blocks, dy.get(), shape.columns, exponents.data(),
           dots.data());
}

void BenchLayer::RowGradients(size_t width) {
  for (size_t c = 0; c < shape.columns; c += width) {
    for (size_t k = 0; k < shape.tables; ++k) {
      AccumulateRows(groups[k], 0, groups[k].rows.size(), c, c + width, dy.get(), shape.columns,
                     dst[k].data(), first.data());
    }
  }
}

}  // namespace mf
