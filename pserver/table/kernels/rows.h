// Elementwise kernels over one row (or a run of columns of it). Vector length never changes the
// bits. `count` is a multiple of 16 (rows are zero-padded). Pointers are 64-byte aligned (32 bytes
// where the numbers are 2 bytes wide).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/run/column_blocks.h"
#include "pserver/table/split_weights.h"

namespace mf {

/// dst[i] = src[i] * factor.
void ScaleInto(float* dst, const float* src, float factor, size_t count);
/// w[i] *= factor.
void ScaleWeights(const WeightRow& w, float factor, size_t count);
/// dst[i] = w[i] * factor, rounded to bf16 as split weights are.
void RoundScaledInto(uint16_t* dst, const WeightRow& w, float factor, size_t count);

/// A sum of squares in double: lane j of 8 adds the squares of columns = j mod 8 in the order of
/// the calls, then column (a sequential chain would wait 4 cycles an add); Total() adds lanes
/// rising.
struct SquareSum {
  double lane[8] = {};
  double Total() const;
};
/// For every block of a row (a run of columns, padded to 16 with zeros) its squares to its sum.
void AddSquares(SquareSum* sums, const float* row, std::span<const ColumnRange> blocks);

}  // namespace mf
