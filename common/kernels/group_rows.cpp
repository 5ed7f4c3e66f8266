// Pairs of a table sorted by row: a counting sort where the table is not much larger than the
// batch, a radix sort otherwise. Both keep the order of tokens inside a row.
#include <algorithm>
#include <bit>
#include <utility>

#include "common/base/buffer.h"
#include "common/kernels/pairs.h"

namespace mf {
namespace {

/// Pairs are visited token by token, so that tokens rise inside a group.
struct Pairs {
  const uint32_t* buckets;
  const void* weights;
  size_t tokens;
  size_t probes;
};

void GroupByCounting(const Pairs& pairs, size_t rows, RowGroups& groups) {
  const size_t count = pairs.tokens * pairs.probes;
  groups.scratch.assign(rows, 0);
  uint64_t* position = groups.scratch.data();
  for (size_t i = 0; i < count; ++i) ++position[pairs.buckets[i]];
  uint32_t next = 0;
  size_t used = 0;
  for (size_t row = 0; row < rows; ++row) {
    if (position[row] == 0) continue;
    groups.rows[used] = static_cast<uint32_t>(row);
    groups.begin[used++] = next;
    next += static_cast<uint32_t>(std::exchange(position[row], next));
  }
  groups.rows.resize(used);
  groups.begin.resize(used + 1);
  groups.begin[used] = next;
  for (size_t token = 0; token < pairs.tokens; ++token) {
    for (size_t probe = 0; probe < pairs.probes; ++probe) {
      const size_t at = probe * pairs.tokens + token;
      const uint64_t to = position[pairs.buckets[at]]++;
      groups.token[to] = static_cast<uint32_t>(token);
      groups.weight[to] = LoadUnaligned<float>(pairs.weights, at);
    }
  }
}

void GroupByRadix(const Pairs& pairs, uint64_t rows, RowGroups& groups) {
  const size_t count = pairs.tokens * pairs.probes;
  // A key is bucket << 32 | token * probes + probe. Digits of 8 bits keep the histogram of a small
  // batch small, 11 bits save a pass over a large one.
  const unsigned digit_bits = count < 4096 ? 8 : 11;
  const unsigned key_bits = static_cast<unsigned>(std::bit_width(rows - 1));
  const size_t digits = size_t{1} << digit_bits;
  groups.scratch.resize(2 * count + digits);
  uint64_t* from = groups.scratch.data();
  uint64_t* to = from + count;
  uint64_t* position = to + count;
  for (size_t token = 0, i = 0; token < pairs.tokens; ++token) {
    for (size_t probe = 0; probe < pairs.probes; ++probe, ++i) {
      from[i] = uint64_t{pairs.buckets[probe * pairs.tokens + token]} << 32 | i;
    }
  }
  for (unsigned shift = 0; shift < key_bits; shift += digit_bits) {
    const auto digit = [&](uint64_t key) { return (key >> (32 + shift)) & (digits - 1); };
    std::fill(position, position + digits, 0);
    for (size_t i = 0; i < count; ++i) ++position[digit(from[i])];
    uint64_t next = 0;
    for (size_t d = 0; d < digits; ++d) next += std::exchange(position[d], next);
    for (size_t i = 0; i < count; ++i) to[position[digit(from[i])]++] = from[i];
    std::swap(from, to);
  }
  size_t used = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t row = static_cast<uint32_t>(from[i] >> 32);
    const uint32_t pair = static_cast<uint32_t>(from[i]);
    if (used == 0 || groups.rows[used - 1] != row) {
      groups.rows[used] = row;
      groups.begin[used++] = static_cast<uint32_t>(i);
    }
    const size_t token = pair / pairs.probes;
    const size_t probe = pair - token * pairs.probes;
    groups.token[i] = static_cast<uint32_t>(token);
    groups.weight[i] = LoadUnaligned<float>(pairs.weights, probe * pairs.tokens + token);
  }
  groups.rows.resize(used);
  groups.begin.resize(used + 1);
  groups.begin[used] = static_cast<uint32_t>(count);
}

}  // namespace

void GroupByRow(const uint32_t* buckets, const void* weights, size_t tokens, size_t probes,
                uint64_t rows_per_table, RowGroups& groups) {
  const size_t count = tokens * probes;
  const Pairs pairs{buckets, weights, tokens, probes};
  groups.rows.resize(count);
  groups.begin.resize(count + 1);
  groups.token.resize(count);
  groups.weight.resize(count);
  if (rows_per_table <= 2 * count + 1024) {
    GroupByCounting(pairs, static_cast<size_t>(rows_per_table), groups);
  } else {
    GroupByRadix(pairs, rows_per_table, groups);
  }
}

}  // namespace mf
