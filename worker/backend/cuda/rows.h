// Memory layers whose tables the GPU has a copy of: weighted sums of rows, dots with rows, and
// summed row gradients, all deterministic: one writer and one fixed order for every number.
//
// `Pairs` is a hash as the hash kernel leaves it: pair p = k * probes + j of token t is at
// [p * tokens + t]; its row is k * rows_per_table + index.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace mf::cuda {

struct Pairs {
  size_t tokens = 0;
  size_t tables = 0;
  size_t probes = 1;
  size_t rows_per_table = 0;       // a power of two
  int index_bytes = 1;             // 1, 2 or 4
  const void* indices = nullptr;   // [tables * probes][tokens]
  const float* weights = nullptr;  // [tables * probes][tokens]

  size_t pairs() const { return tables * probes; }
  size_t rows() const { return tables * rows_per_table; }
};

/// y [tokens][columns] = sum over pairs, rising, of weight * table row. `table` is
/// [rows()][columns]. Overwrites y.
void GatherReduce(cudaStream_t stream, const Pairs& pairs, const float* table, size_t columns,
                  float* y);

/// dweights [pairs][tokens] = <table row, dy of the token>, dy [tokens][columns]. Overwritten.
void PairDots(cudaStream_t stream, const Pairs& pairs, const float* table, size_t columns,
              const float* dy, float* dweights);

/// Which rows a micro-batch meets, found on the GPU. All memory belongs to the caller; see
/// RowGroupsBytes.
struct RowGroups {
  uint32_t* flags = nullptr;    // [rows()] scratch
  uint32_t* rows = nullptr;     // [rows()] the rows met, rising; `count` of them
  uint32_t* begin = nullptr;    // [rows() + 1] where each met row's entries begin in `entries`
  uint32_t* entries = nullptr;  // [pairs * tokens] pair * tokens + token, by row, then by token,
                                // then by pair
  uint32_t* count = nullptr;    // [1]
  void* scratch = nullptr;      // RowGroupsScratchBytes
};

size_t RowGroupsScratchBytes(const Pairs& pairs);

/// Fills `groups`: a stable sort of the pairs by row (CUB's radix sort on a GPU).
void GroupByRow(cudaStream_t stream, const Pairs& pairs, const RowGroups& groups);

/// gradients [count][columns]: of each met row the sum of weight * dy over its entries in order,
/// summed from zero, multiply and add rounded apart; hits [count] = how many entries. At most
/// rows() rows are written.
void RowGradients(cudaStream_t stream, const Pairs& pairs, const RowGroups& groups,
                  const float* dy, size_t columns, float* gradients, uint32_t* hits);

/// The rows of `groups` whose stamp is not `now`, to stale [rows()] (rising, their number in
/// *stale_count), and their stamps [rows()] become `now`.
void TakeStale(cudaStream_t stream, const Pairs& pairs, const RowGroups& groups, uint64_t now,
               uint64_t* stamps, uint32_t* stale, uint32_t* stale_count);

/// table [..][columns]: row stale[i] = values[i * columns ..] for i < count.
void ScatterRows(cudaStream_t stream, const uint32_t* stale, size_t count, const float* values,
                 size_t columns, float* table);

}  // namespace mf::cuda
