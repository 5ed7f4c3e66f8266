// Rows that were never updated, computed on the fly (DESIGN 2.8).
#pragma once

#include <cstddef>
#include <cstdint>

namespace mf {

/// out[c - begin] = scale * stddev * N(key, row, c) for columns [begin, end), begin a multiple of
/// 16, and zeros up to the next multiple of 16. N is standard normal by Box-Muller over
/// Philox4x32-10 with counter (row low, row high, quad = c / 4, 0): words (w0, w1) give columns
/// 4*quad + 0 and + 1, words (w2, w3) columns + 2 and + 3 as r*cos(a), r*sin(a) with r = sqrt(-2
/// ln((w_even + 1) * 2^-32)) and a = 2 pi * w_odd * 2^-32. The value at a column never depends on
/// begin and end. `scale` and `stddev` are multiplied in double first. RandomNormal in
/// common/base/random.h is the oracle.
void GenerateNormal(uint64_t key, uint64_t row, size_t begin, size_t end, double stddev,
                    double scale, float* out);

}  // namespace mf
