// The kernels of a memory layer: weighted gather-reduce, its dots, its row gradients. They know
// rows as pointers, not tables, messages or threads. Used by the servers (pushdown) and by workers
// (pull).
//
// Order of every sum is fixed and independent of the instruction set's vector length, of the cut by
// tokens, columns or threads, of the loop order chosen (a table or a token at a time) and of the
// type that rows are stored in: DESIGN 2.3.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/run/column_blocks.h"
#include "common/run/tensor_spec.h"

namespace mf {

/// The pairs (row, weight) of a batch of tokens. Pair-major: pair p = k * probes + j of token t is
/// at [p * tokens + t].
struct PairBatch {
  size_t tokens = 0;
  size_t pairs = 0;
  const void* const* rows = nullptr;  // [pairs][tokens]; each row padded with zeros to 16 columns
  const void* weights = nullptr;      // f32 [pairs][tokens], any alignment
  // Of all rows. bf16 is widened when it is read, which is exact: sums are those of f32 rows that
  // hold the same values.
  RowType type = RowType::kF32;
};

/// y[t][c] = sum over p, ascending, of weight * row[c], by FMA from zero (eq. 5 of the paper), for
/// tokens [token_begin, token_end) and columns [0, columns). `y` is [tokens][y_stride],
/// overwritten. Table-major: several pairs a pass, rows prefetched.
void GatherReduce(const PairBatch& batch, size_t token_begin, size_t token_end, size_t columns,
                  float* y, size_t y_stride);

/// dots[p][t] = the exact fixed-point dL/dweight of DESIGN 2.3: per block, lane j of 16 accumulates
/// columns = j mod 16 upwards with FMA, lanes j and j + 8 are added, the 8 sums times
/// 2^(40 - exponent[t]) are rounded to nearest-even int64 and added in integers. INT64_MIN (sticky)
/// if a lane is not finite or above 2^53 in size, or if exponent[t] == kNotFinite. `blocks` are
/// relative to the row pointers. dy: f32 [tokens][dy_stride], any alignment; the row tail beyond
/// the last block is not read. `dots` is [pairs][tokens], overwritten for the token range.
inline constexpr int8_t kNotFinite = -128;
inline constexpr int64_t kDotNotFinite = INT64_MIN;
void PairDots(const PairBatch& batch, size_t token_begin, size_t token_end,
              std::span<const ColumnRange> blocks, const void* dy, size_t dy_stride,
              const int8_t* exponents, int64_t* dots);

/// Sticky addition of two fixed-point parts.
inline int64_t AddDots(int64_t a, int64_t b) {
  return a == kDotNotFinite || b == kDotNotFinite ? kDotNotFinite : a + b;
}
/// The float value of a finished sum: dot * 2^(exponent - 40); NaN if not finite.
float DotValue(int64_t dot, int8_t exponent);
/// e = ceil(log2(sum |dy|)) raised to at least -80; kNotFinite if the sum is above 2^127 or not
/// finite. The sum is taken in double, so that it cannot overflow.
int8_t DotExponent(const float* dy, size_t columns);

/// The pairs of one table grouped by row: a stable counting (or radix) sort by bucket.
struct RowGroups {
  std::vector<uint32_t> rows;   // distinct buckets, rising
  std::vector<uint32_t> begin;  // [rows + 1] into token and weight
  std::vector<uint32_t> token;  // rising inside a group
  std::vector<float> weight;
  std::vector<uint64_t> scratch;  // kept between calls: no allocation once warm
};
/// Groups table k's pairs. `buckets` is [probes][tokens] (already widened), `weights` f32
/// [probes][tokens] of any alignment. A token meets a row at most once.
void GroupByRow(const uint32_t* buckets, const void* weights, size_t tokens, size_t probes,
                uint64_t rows_per_table, RowGroups& groups);

/// How rows that are written for the first time go to memory; the bits are the same. Around the
/// caches their lines need not be read before they are overwritten, but whoever reads them next
/// waits for memory.
enum class FirstWrites { kCached, kAroundCaches };
/// The faster of both for `tables` tables of at most `table_bytes` of such rows each. `read_next`:
/// a table's rows are read again as soon as it is done, otherwise after all tables.
FirstWrites FasterFirstWrites(uint64_t table_bytes, uint64_t tables, bool read_next);

/// dst[g][c] = sum over the group's tokens, rising, of weight * dy[token][c] (FMA from zero, eq.
/// 7); where first[g] == 0 the finished sum is added once to what dst[g] holds, else it overwrites
/// it. Groups [group_begin, group_end); columns [column_begin, column_end), column_begin a multiple
/// of 16; dst rows are padded to 16 columns and the padding is written as zero. dy as in PairDots.
void AccumulateRows(const RowGroups& groups, size_t group_begin, size_t group_end,
                    size_t column_begin, size_t column_end, const void* dy, size_t dy_stride,
                    float* const* dst, const uint8_t* first,
                    FirstWrites writes = FirstWrites::kCached);

/// True if all `count` f32 numbers at `data` (any alignment) are finite.
bool AllFinite(const void* data, size_t count);

/// dst[i] += src[i], both f32; src of any alignment.
void AddInto(float* dst, const void* src, size_t count);

}  // namespace mf
