// One memory layer and a batch that meets it, for measuring the bare kernels: no server; one core,
// or the threads of a pool, cut as a server cuts it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/base/thread_pool.h"
#include "common/kernels/pairs.h"
#include "common/run/column_blocks.h"
#include "tests/bench/support/machine.h"

namespace mf {

struct LayerShape {
  size_t tables = 64;
  size_t rows = 256;  // per table
  size_t columns = 512;
  size_t tokens = 1024;
  bool huge_pages = true;  // asked for
  RowType type = RowType::kF32;
  size_t pairs() const { return tables * tokens; }
  size_t number_bytes() const { return type == RowType::kBf16 ? sizeof(uint16_t) : sizeof(float); }
  size_t row_bytes() const { return columns * number_bytes(); }
  size_t table_bytes() const { return tables * rows * row_bytes(); }
  /// Of all rows that the batch reads once.
  double read_bytes() const { return static_cast<double>(pairs() * row_bytes()); }
};

/// Even random buckets. Members are what the kernels read and write, pair-major.
struct BenchLayer {
  static constexpr size_t kBlock = 64;  // columns of a column block

  explicit BenchLayer(const LayerShape& layer_shape);
  PairBatch batch() const {
    return {shape.tokens, shape.tables, rows.data(), weights.data(), shape.type};
  }
  void Group(size_t k);
  void Forward();
  void ExactDots();
  /// Cut into ranges of `width` columns.
  void RowGradients(size_t width);
  /// What a server does for a backward, apart from messages: grouping, dots, row gradients.
  void Backward();

  // The same by all threads of a pool.
  void Forward(ThreadPool& pool);
  void ExactDots(ThreadPool& pool);
  void RowGradients(ThreadPool& pool);  // grouping and sums
  void Backward(ThreadPool& pool);      // both
  /// The batch's rows as the forward meets them, token by token: bytes, to be read only.
  std::vector<const float*> RowsByToken() const;

  const LayerShape shape;
  Floats table, dy, y;  // table: of shape.type
  std::vector<uint32_t> buckets;
  std::vector<const void*> rows;
  std::vector<float> weights;
  std::vector<int8_t> exponents;
  std::vector<ColumnRange> blocks;
  std::vector<RowGroups> groups;
  std::vector<int64_t> dots;
  Floats gradients;
  std::vector<std::vector<float*>> dst;
  std::vector<uint8_t> first;
  FirstWrites first_writes = FirstWrites::kCached;  // as a server before a step's end
};

}  // namespace mf
