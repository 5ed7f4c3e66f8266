// Memory layers whose tables the GPU has a copy of: weighted sums of rows, dots with rows, and
// summed row gradients, all deterministic: one writer and one fixed order for every number.
//
// `Pairs` is a hash as the hash kernel leaves it: pair p = k * probes + j of token t is at
// [p * tokens + t]; its row is k * rows_per_table + index.
//
// Everything is queued on `stream`; memory that is named must live until the stream has come by.
// Rows of 4 n columns whose arrays are 16-byte aligned are read and written 16 bytes at a time;
// others are right as well, and slower.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace mf::cuda {

struct Pairs {
  size_t tokens = 0;
  size_t tables = 0;
  size_t probes = 1;
  size_t rows_per_table = 0;       // a power of two
  int index_bytes = 1;             // 1, 2 or 4
  const void* indices = nullptr;   // [tables * probes][tokens], each below rows_per_table
  const float* weights = nullptr;  // [tables * probes][tokens]

  size_t pairs() const { return tables * probes; }
  size_t rows() const { return tables * rows_per_table; }
  size_t entries() const { return pairs() * tokens; }
  /// No micro-batch of this size meets more distinct rows.
  size_t most_rows() const { return std::min(rows(), entries()); }
};

/// rows() and entries() of what the functions below take stay below this: rows are numbered in
/// uint32, and CUB counts what it sorts in int. They throw CudaError beyond.
inline constexpr size_t kMostRows = size_t{1} << 32;
inline constexpr size_t kMostEntries = size_t{1} << 31;

/// y [tokens][columns] = sum over pairs, rising, of weight * table row, by FMA from zero: the bits
/// of the CPU's GatherReduce (common/kernels/pairs.h). `table` is [rows()][columns]. Overwrites y.
void GatherReduce(cudaStream_t stream, const Pairs& pairs, const float* table, size_t columns,
                  float* y);

/// dweights [pairs][tokens] = <table row, dy of the token>, dy [tokens][columns]; float sums in an
/// order fixed by `columns`. Overwritten. pairs.weights is not read.
void PairDots(cudaStream_t stream, const Pairs& pairs, const float* table, size_t columns,
              const float* dy, float* dweights);

/// Which rows a micro-batch meets, found on the GPU. All memory belongs to the caller and is
/// overwritten. Sizes are those of the `pairs` of the call; memory made for more tokens does.
struct RowGroups {
  uint32_t* rows = nullptr;     // [most_rows()] the rows met, rising; `count` of them
  uint32_t* begin = nullptr;    // [most_rows() + 1] where each met row's entries begin in
                                // `entries`; begin[count] = entries()
  uint32_t* entries = nullptr;  // [entries()] pair * tokens + token, by row, then by token, then
                                // by pair
  uint32_t* count = nullptr;    // [1]
  void* scratch = nullptr;      // RowGroupsScratchBytes, 256-byte aligned
};

/// All that GroupByRow and TakeStale need besides the arrays above. Asks the current device.
size_t RowGroupsScratchBytes(const Pairs& pairs);

/// Fills `groups`: a stable sort of the pairs by row (CUB's radix sort on a GPU). pairs.weights is
/// not read.
void GroupByRow(cudaStream_t stream, const Pairs& pairs, const RowGroups& groups);

/// gradients [count][columns]: of each met row the sum of weight * dy over its entries in order, by
/// FMA from zero (one rounding an entry): the bits of the servers' and the CPU workers'
/// AccumulateRows (common/kernels/row_gradients.cpp). hits [count] = how many entries. `pairs` are
/// those that GroupByRow was given; at most most_rows() rows are written.
void RowGradients(cudaStream_t stream, const Pairs& pairs, const RowGroups& groups, const float* dy,
                  size_t columns, float* gradients, uint32_t* hits);

/// The rows of `groups` whose stamp is not `now`, to stale [most_rows()] (rising, their number in
/// *stale_count), and their stamps become `now`. stamps [rows()]. Uses groups.scratch.
void TakeStale(cudaStream_t stream, const Pairs& pairs, const RowGroups& groups, uint64_t now,
               uint64_t* stamps, uint32_t* stale, uint32_t* stale_count);

/// table [..][columns]: row stale[i] = values[i * columns ..] for i < count. The rows of `stale`
/// differ.
void ScatterRows(cudaStream_t stream, const uint32_t* stale, size_t count, const float* values,
                 size_t columns, float* table);

}  // namespace mf::cuda
