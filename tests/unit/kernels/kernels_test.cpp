// The pair kernels against naive oracles, on shapes that leave tails everywhere, from misaligned
// inputs into poisoned outputs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "common/base/bf16.h"
#include "common/kernels/pairs.h"
#include "tests/support/kernel_checks.h"

namespace mf {
namespace {

/// A batch over random tables. The last table row ends the table and dy has exactly `columns` a
/// token, so that the address sanitizer sees a read too far.
struct Problem {
  size_t tokens, probes, tables, columns, rows_per_table;
  std::vector<float> table;
  std::vector<uint32_t> buckets;  // [pairs][tokens]
  std::vector<const float*> rows;
  std::vector<const void*> row_pointers;
  RowType type;
  std::vector<uint16_t> bf16_table;  // what the kernels read if `type` says so
  std::vector<float> weights, dy;
  Misaligned raw_weights{{}}, raw_dy{{}};
  std::vector<int8_t> exponents;

  Problem(size_t token_count, size_t probe_count, size_t table_count, size_t column_count,
          uint32_t seed, size_t table_rows = 16, RowType row_type = RowType::kF32)
      : tokens(token_count),
        probes(probe_count),
        tables(table_count),
        columns(column_count),
        rows_per_table(table_rows),
        type(row_type) {
    std::mt19937 rng(seed);
    table = Uniform(rng, tables * rows_per_table * Padded(columns));
    if (type == RowType::kBf16) {
      for (float& x : table) x = FromBf16(ToBf16(x));
    }
    ClearPadding();
    buckets.resize(pairs() * tokens);
    for (size_t k = 0; k < tables; ++k) {
      for (size_t t = 0; t < tokens; ++t) {
        const uint32_t bucket = static_cast<uint32_t>(rng() % rows_per_table);
        for (size_t j = 0; j < probes;
             ++j) {  // other probes flip one bit: never the same row twice
          buckets[(k * probes + j) * tokens + t] = j == 0 ? bucket : bucket ^ (1u << (j - 1));
        }
      }
    }
    rows.resize(pairs() * tokens);
    for (size_t p = 0; p < pairs(); ++p) {
      for (size_t t = 0; t < tokens; ++t) {
        const size_t row = p / probes * rows_per_table + buckets[p * tokens + t];
        rows[p * tokens + t] = table.data() + row * Padded(columns);
      }
    }
    weights = Uniform(rng, pairs() * tokens);
    dy = Uniform(rng, tokens * columns, 0.01f);
    Repack();
  }
  Problem(const Problem&) = delete;  // rows point into table

  void ClearPadding() {
    for (size_t i = 0; i < table.size(); ++i) {
      if (i % Padded(columns) >= columns) table[i] = 0;
    }
  }
  /// To be called when the table, weights or dy were changed.
  void Repack() {
    bf16_table.resize(type == RowType::kBf16 ? table.size() : 0);
    for (size_t i = 0; i < bf16_table.size(); ++i) bf16_table[i] = ToBf16(table[i]);
    row_pointers.assign(rows.begin(), rows.end());
    for (size_t i = 0; i < rows.size() && type == RowType::kBf16; ++i) {
      row_pointers[i] = &bf16_table[static_cast<size_t>(rows[i] - table.data())];
    }
    raw_weights = Misaligned(weights);
    raw_dy = Misaligned(dy);
    exponents.resize(tokens);
    for (size_t t = 0; t < tokens; ++t) exponents[t] = DotExponent(&dy[t * columns], columns);
  }
  size_t pairs() const { return tables * probes; }
  PairBatch batch() const {
    return {tokens, pairs(), row_pointers.data(), raw_weights.data(), type};
  }

  /// Blocks of `width` columns, the last one takes the rest.
  std::vector<ColumnRange> Blocks(size_t width = 64) const {
    std::vector<ColumnRange> blocks;
    for (size_t c = 0; c < columns; c += width) {
      blocks.push_back(
          {static_cast<int64_t>(c), static_cast<int64_t>(std::min(columns, c + width))});
    }
    return blocks;
  }
  /// y by its definition; behind the columns of each row of `stride` there is poison.
  std::vector<float> NaiveY(size_t stride) const {
    std::vector<float> y(tokens * stride, kPoison);
    for (size_t t = 0; t < tokens; ++t) {
      for (size_t c = 0; c < columns; ++c) {
        float sum = 0;
        for (size_t p = 0; p < pairs(); ++p) {
          sum = std::fma(weights[p * tokens + t], rows[p * tokens + t][c], sum);
        }
        y[t * stride + c] = sum;
      }
    }
    return y;
  }
  /// One fixed-point dot by its definition.
  int64_t NaiveDot(size_t p, size_t t, const std::vector<ColumnRange>& blocks) const {
    if (exponents[t] == kNotFinite) return kDotNotFinite;
    int64_t dot = 0;
    for (const ColumnRange& block : blocks) {
      float lane[16] = {};
      for (int64_t c = block.begin; c < block.end; ++c) {
        float& sum = lane[(c - block.begin) % 16];
        sum = std::fma(rows[p * tokens + t][c], dy[t * columns + static_cast<size_t>(c)], sum);
      }
      for (int j = 0; j < 8; ++j) {
        const double x = std::ldexp(static_cast<double>(lane[j] + lane[j + 8]), 40 - exponents[t]);
        const bool good = std::abs(x) <= 0x1p53;
        dot = AddDots(dot, good ? std::llrint(x) : kDotNotFinite);
      }
    }
    return dot;
  }
  std::vector<int64_t> NaiveDots(const std::vector<ColumnRange>& blocks) const {
    std::vector<int64_t> dots(pairs() * tokens);
    for (size_t p = 0; p < pairs(); ++p) {
      for (size_t t = 0; t < tokens; ++t) dots[p * tokens + t] = NaiveDot(p, t, blocks);
    }
    return dots;
  }
};

/// Calls `body` with problems of every shape.
void ForShapes(const std::function<void(const Problem&)>& body, RowType type = RowType::kF32) {
  uint32_t seed = 1;
  for (const size_t columns : kColumnShapes) {
    for (const size_t tokens : kTokenShapes) {
      for (size_t probes = 1; probes <= 3; ++probes) {
        const size_t tables = 1 + (columns + tokens + probes) % 9;
        SCOPED_TRACE(testing::Message() << columns << " columns, " << tokens << " tokens, "
                                        << probes << " probes, " << tables << " tables");
        body(Problem(tokens, probes, tables, columns, ++seed, 16, type));
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

std::vector<float> Reduce(const Problem& problem, size_t stride) {
  std::vector<float> y(problem.tokens * stride, kPoison);
  GatherReduce(problem.batch(), 0, problem.tokens, problem.columns, y.data(), stride);
  return y;
}

std::vector<int64_t> Dots(const Problem& problem, const std::vector<ColumnRange>& blocks) {
  std::vector<int64_t> dots(problem.pairs() * problem.tokens, 77);
  PairDots(problem.batch(), 0, problem.tokens, blocks, problem.raw_dy.data(), problem.columns,
           problem.exponents.data(), dots.data());
  return dots;
}

TEST(GatherReduceTest, IsTheNaiveSumBitForBit) {
  ForShapes([](const Problem& problem) {
    for (const size_t stride : {problem.columns, problem.columns + 5}) {
      ExpectSameBits(problem.NaiveY(stride), Reduce(problem, stride), "y");
    }
  });
}

TEST(GatherReduceTest, CutsByTokensDoNotMatter) {
  ForShapes([](const Problem& problem) {
    std::vector<float> y(problem.tokens * problem.columns, kPoison);
    for (size_t t = 0; t < problem.tokens; t += 50) {
      GatherReduce(problem.batch(), t, std::min(problem.tokens, t + 50), problem.columns, y.data(),
                   problem.columns);
    }
    ExpectSameBits(problem.NaiveY(problem.columns), y, "y");
  });
}

// Tables of every size class: a whole group in cache, slices of it, and neither.
TEST(GatherReduceTest, TableSizesTakeDifferentOrdersToTheSameBits) {
  for (const size_t rows_per_table : {16, 256, 4096}) {
    for (const size_t columns : {300, 512}) {
      const Problem problem(40, 1, 11, columns, 5, rows_per_table);
      ExpectSameBits(problem.NaiveY(columns), Reduce(problem, columns), "y");
      ExpectSameBits(problem.NaiveDots(problem.Blocks()), Dots(problem, problem.Blocks()), "dots");
    }
  }
}

TEST(GatherReduceTest, NoPairsGiveZeros) {
  std::vector<float> y(3 * 20, kPoison);
  const PairBatch batch{3, 0, nullptr, nullptr};
  GatherReduce(batch, 0, 3, 17, y.data(), 20);
  for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(y[i], i % 20 < 17 ? 0 : kPoison);
}

// The oracles know f32 rows only: the rows widened first.
TEST(Bf16RowsTest, GiveTheBitsOfTheSameRowsWidenedFirst) {
  ForShapes(
      [](const Problem& problem) {
        const size_t stride = problem.columns + 5;
        ExpectSameBits(problem.NaiveY(stride), Reduce(problem, stride), "y");
        for (const size_t width : {16, 64, 112}) {
          const auto blocks = problem.Blocks(width);
          ExpectSameBits(problem.NaiveDots(blocks), Dots(problem, blocks), "dots");
        }
      },
      RowType::kBf16);
}

TEST(Bf16RowsTest, TableSizesTakeDifferentOrdersToTheSameBits) {
  for (const size_t rows_per_table : {16, 512, 8192}) {
    const Problem problem(40, 1, 11, 300, 5, rows_per_table, RowType::kBf16);
    ExpectSameBits(problem.NaiveY(300), Reduce(problem, 300), "y");
    ExpectSameBits(problem.NaiveDots(problem.Blocks()), Dots(problem, problem.Blocks()), "dots");
  }
}

// Infinities, NaNs and numbers that only just are none; sums that leave the fast rounding.
TEST(Bf16RowsTest, NumbersAtTheEdgesAreWidenedToo) {
  for (const float edge : {kInfinity, kNaN, -0.0f, 0x1p-133f, 0x1.FEp127f, 0x1p12f}) {
    Problem problem(3, 2, 5, 200, 9, 16, RowType::kBf16);
    for (size_t i = 0; i < problem.table.size(); i += 37) problem.table[i] = edge;
    problem.ClearPadding();
    problem.Repack();
    ExpectSameBits(problem.NaiveDots(problem.Blocks()), Dots(problem, problem.Blocks()), "dots");
    if (!std::isnan(edge) && !std::isinf(edge)) {  // a NaN's sign bit is not defined
      ExpectSameBits(problem.NaiveY(200), Reduce(problem, 200), "y");
    }
  }
}

TEST(PairDotsTest, AreTheDefinitionBitForBit) {
  ForShapes([](const Problem& problem) {
    for (const size_t width : {16, 64, 112}) {
      const auto blocks = problem.Blocks(width);
      ExpectSameBits(problem.NaiveDots(blocks), Dots(problem, blocks), "dots");
    }
  });
}

TEST(PairDotsTest, CutsByTokensAndBlocksAddUp) {
  ForShapes([](const Problem& problem) {
    const auto blocks = problem.Blocks();
    std::vector<int64_t> sum(problem.pairs() * problem.tokens, 0);
    for (const ColumnRange& block : blocks) {
      std::vector<int64_t> part(sum.size(), 77);
      for (size_t t = 0; t < problem.tokens; t += 50) {
        PairDots(problem.batch(), t, std::min(problem.tokens, t + 50), {&block, 1},
                 problem.raw_dy.data(), problem.columns, problem.exponents.data(), part.data());
      }
      for (size_t i = 0; i < sum.size(); ++i) sum[i] = AddDots(sum[i], part[i]);
    }
    ExpectSameBits(Dots(problem, blocks), sum, "dots");
  });
}

TEST(PairDotsTest, AreCloseToTheTruth) {
  const Problem problem(127, 1, 8, 512, 3);
  const std::vector<int64_t> dots = Dots(problem, problem.Blocks());
  for (size_t p = 0; p < problem.pairs(); ++p) {
    for (size_t t = 0; t < problem.tokens; ++t) {
      double exact = 0, size = 0;
      for (size_t c = 0; c < problem.columns; ++c) {
        const double product = double{problem.rows[p * problem.tokens + t][c]} *
                               double{problem.dy[t * problem.columns + c]};
        exact += product;
        size += std::abs(product);
      }
      const float value = DotValue(dots[p * problem.tokens + t], problem.exponents[t]);
      EXPECT_NEAR(value, exact, 0x1p-23 * size);  // five roundings of a lane, hardly ever aligned
    }
  }
}

TEST(PairDotsTest, NotFiniteIsSticky) {
  for (const float bad : {kNaN, kInfinity, -kInfinity}) {
    Problem problem(3, 2, 5, 200, 9);
    const size_t at = static_cast<size_t>(problem.rows[4 * 3 + 1] - problem.table.data());
    problem.table[at + 70] = bad;
    const auto expected = problem.NaiveDots(problem.Blocks());
    EXPECT_EQ(expected[4 * 3 + 1], kDotNotFinite);
    EXPECT_GT(std::count_if(expected.begin(), expected.end(),
                            [](int64_t dot) { return dot != kDotNotFinite; }),
              0);
    ExpectSameBits(expected, Dots(problem, problem.Blocks()), "dots");
    problem.dy[2 * problem.columns + 199] = bad;
    problem.Repack();
    EXPECT_EQ(problem.exponents[2], kNotFinite);
    ExpectSameBits(problem.NaiveDots(problem.Blocks()), Dots(problem, problem.Blocks()), "dots");
  }
}

// Row values around 2^11 and 2^13 are the edges of the fast rounding and of the format.
TEST(PairDotsTest, LargeRowsAreExactAndTooLargeOnesStick) {
  size_t finite = 0, sticky = 0;
  for (const int power : {9, 10, 11, 12, 13, 14, 40, 127}) {
    for (const float direction : {1.0f, -1.0f}) {
      Problem problem(3, 1, 9, 33, static_cast<uint32_t>(power));
      for (float& x : problem.table) x = std::ldexp(x, power);
      problem.table[5] = std::ldexp(1.0f, power);
      std::fill(problem.dy.begin(), problem.dy.end(), 0.0f);
      for (size_t t = 0; t < 3; ++t) problem.dy[t * 33 + 5 * t] = direction;  // all in one lane
      problem.Repack();
      const auto expected = problem.NaiveDots(problem.Blocks());
      for (const int64_t dot : expected) ++(dot == kDotNotFinite ? sticky : finite);
      ExpectSameBits(expected, Dots(problem, problem.Blocks()), "dots");
    }
  }
  EXPECT_GT(finite, 0u);
  EXPECT_GT(sticky, 0u);
}

// One column, e = 0: units are 2^-40; halves are ties, 2^51 and 2^53 the edges.
TEST(PairDotsTest, RoundsToNearestEvenUpToTheLimit) {
  for (const double units : {0.5, 1.5, 2.5, 3.5, 1e-20, 8388607.5, 0x1p51, 0x1.8p51, 0x1p52,
                             0x1.fffffep52, 0x1p53, 0x1.000002p53}) {
    for (const double sign : {1.0, -1.0}) {
      alignas(64) float row[16] = {static_cast<float>(std::ldexp(sign * units, -40))};
      const void* rows[1] = {row};
      const float one = 1;
      const int8_t exponent = DotExponent(&one, 1);
      ASSERT_EQ(exponent, 0);
      const ColumnRange block{0, 1};
      int64_t dot = 77;
      PairDots({1, 1, rows, &one}, 0, 1, {&block, 1}, &one, 1, &exponent, &dot);
      EXPECT_EQ(dot, units <= 0x1p53 ? std::llrint(sign * units) : kDotNotFinite) << units;
    }
  }
}

TEST(PairDotsTest, ExponentsAndValues) {
  const auto exponent = [](const std::vector<float>& dy) {
    return DotExponent(dy.data(), dy.size());
  };
  EXPECT_EQ(exponent({}), -80);
  EXPECT_EQ(exponent({0, 0, 0}), -80);
  EXPECT_EQ(exponent({1e-30f}), -80);
  EXPECT_EQ(exponent({1}), 0);
  EXPECT_EQ(exponent({-1, 1}), 1);
  EXPECT_EQ(exponent({1, 1, 1}), 2);
  EXPECT_EQ(exponent(std::vector<float>(513, 1)), 10);
  EXPECT_EQ(exponent({0x1p127f}), 127);
  EXPECT_EQ(exponent({0x1p126f, 0x1p126f}), 127);
  EXPECT_EQ(exponent({0x1.000002p127f}), kNotFinite);
  EXPECT_EQ(exponent(std::vector<float>(20, 0x1p127f)), kNotFinite);
  EXPECT_EQ(exponent({1, kNaN}), kNotFinite);
  EXPECT_EQ(exponent({-kInfinity}), kNotFinite);
  EXPECT_EQ(DotValue(int64_t{1} << 40, 0), 1);
  EXPECT_EQ(DotValue(-(int64_t{3} << 38), 1), -1.5f);
  EXPECT_TRUE(std::isnan(DotValue(kDotNotFinite, 0)));
  EXPECT_TRUE(std::isnan(DotValue(5, kNotFinite)));
  EXPECT_EQ(AddDots(kDotNotFinite, 1), kDotNotFinite);
  EXPECT_EQ(AddDots(-1, kDotNotFinite), kDotNotFinite);
  EXPECT_EQ(AddDots(-1, 3), 2);
}

// Small tables take the counting sort, large ones the radix sort with short and long digits.
TEST(GroupByRowTest, SortsByRowThenToken) {
  struct Entry {
    uint32_t row, token;
    float weight;
  };
  for (const size_t tokens : {0, 1, 3, 127, 5000}) {
    for (const size_t probes : {1, 3}) {
      for (const size_t rows : {size_t{8}, size_t{256}, size_t{1} << 13, size_t{1} << 22}) {
        std::mt19937 rng(7);
        std::vector<uint32_t> buckets(tokens * probes);
        for (size_t t = 0; t < tokens; ++t) {
          const uint32_t bucket = static_cast<uint32_t>(rng() % rows);
          for (size_t j = 0; j < probes; ++j) {
            buckets[j * tokens + t] = j == 0 ? bucket : bucket ^ (1u << (j - 1));
          }
        }
        const std::vector<float> weights = Uniform(rng, buckets.size());
        const Misaligned raw(weights);
        RowGroups groups;
        for (int repeat = 0; repeat < 2; ++repeat) {
          GroupByRow(buckets.data(), raw.data(), tokens, probes, rows, groups);
        }
        std::vector<Entry> expected;
        for (size_t t = 0; t < tokens; ++t) {
          for (size_t j = 0; j < probes; ++j) {
            const size_t at = j * tokens + t;
            expected.push_back({buckets[at], static_cast<uint32_t>(t), weights[at]});
          }
        }
        std::stable_sort(expected.begin(), expected.end(),
                         [](const Entry& a, const Entry& b) { return a.row < b.row; });
        ASSERT_EQ(groups.token.size(), expected.size());
        ASSERT_EQ(groups.begin.size(), groups.rows.size() + 1);
        ASSERT_EQ(groups.begin.back(), expected.size());
        for (size_t g = 0; g < groups.rows.size(); ++g) {
          ASSERT_LT(groups.begin[g], groups.begin[g + 1]);
          ASSERT_TRUE(g == 0 || groups.rows[g - 1] < groups.rows[g]);
          for (size_t i = groups.begin[g]; i < groups.begin[g + 1]; ++i) {
            ASSERT_EQ(groups.rows[g], expected[i].row);
            ASSERT_EQ(groups.token[i], expected[i].token);
            ASSERT_EQ(groups.weight[i], expected[i].weight);
          }
        }
      }
    }
  }
}

RowGroups GroupTableZero(const Problem& problem) {
  RowGroups groups;
  GroupByRow(problem.buckets.data(), problem.raw_weights.data(), problem.tokens, problem.probes,
             problem.rows_per_table, groups);
  return groups;
}

/// Where the row gradients of table 0 go: two rows of three are written for the first time (over
/// poison), the third adds to 0.25.
struct GradientRows {
  struct alignas(64) Line {
    float values[16];
  };
  size_t padded;
  std::vector<Line> lines;
  std::vector<float*> dst;
  std::vector<uint8_t> first;
  GradientRows(size_t count, size_t columns)
      : padded(Padded(columns)), lines(count * padded / 16), dst(count), first(count) {
    for (Line& line : lines) std::fill(std::begin(line.values), std::end(line.values), kPoison);
    for (size_t g = 0; g < count; ++g) {
      dst[g] = lines[g * padded / 16].values;
      first[g] = g % 3 != 0;
      if (first[g]) continue;
      std::fill(dst[g], dst[g] + columns, 0.25f);
      std::fill(dst[g] + columns, dst[g] + padded, 0.0f);
    }
  }
  std::vector<float> values() const {
    std::vector<float> out;
    for (const Line& line : lines) {
      out.insert(out.end(), std::begin(line.values), std::end(line.values));
    }
    return out;
  }
};

/// Cut into column ranges of `width` and group ranges of `rows_per_call`.
std::vector<float> RowGradients(const Problem& problem, size_t width, size_t rows_per_call = 5,
                                FirstWrites writes = FirstWrites::kCached) {
  const RowGroups groups = GroupTableZero(problem);
  const size_t count = groups.rows.size();
  GradientRows rows(count, problem.columns);
  for (size_t c = 0; c < problem.columns; c += width) {
    for (size_t g = 0; g < count; g += rows_per_call) {
      AccumulateRows(groups, g, std::min(count, g + rows_per_call), c,
                     std::min(problem.columns, c + width), problem.raw_dy.data(), problem.columns,
                     rows.dst.data(), rows.first.data(), writes);
    }
  }
  return rows.values();
}

std::vector<float> NaiveRowGradients(const Problem& problem) {
  const RowGroups groups = GroupTableZero(problem);
  GradientRows rows(groups.rows.size(), problem.columns);
  for (size_t g = 0; g < groups.rows.size(); ++g) {
    for (size_t c = 0; c < rows.padded; ++c) {
      float sum = 0;
      for (size_t i = groups.begin[g]; i < groups.begin[g + 1] && c < problem.columns; ++i) {
        sum = std::fma(groups.weight[i], problem.dy[groups.token[i] * problem.columns + c], sum);
      }
      rows.dst[g][c] = rows.first[g] ? sum : rows.dst[g][c] + sum;
    }
  }
  return rows.values();
}

TEST(AccumulateRowsTest, IsTheNaiveSumBitForBitForAnyCut) {
  ForShapes([](const Problem& problem) {
    const auto expected = NaiveRowGradients(problem);
    for (const size_t width : {16, 64, 144, 1024}) {
      ExpectSameBits(expected, RowGradients(problem, width), "gradients");
    }
  });
}

TEST(AccumulateRowsTest, WritesAroundTheCachesGiveTheSameBits) {
  ForShapes([](const Problem& problem) {
    for (const size_t width : {16, 144, 1024}) {
      ExpectSameBits(NaiveRowGradients(problem),
                     RowGradients(problem, width, 7, FirstWrites::kAroundCaches), "gradients");
    }
  });
  const Problem problem(3000, 1, 1, 300, 8, 2048);
  ExpectSameOnAllTargets<float>(
      [&] { return RowGradients(problem, 1024, 4096, FirstWrites::kAroundCaches); });
}

TEST(AccumulateRowsTest, UnalignedRowsAreNotWrittenAroundTheCaches) {
  const Problem problem(3, 1, 1, 64, 4);
  const RowGroups groups = GroupTableZero(problem);
  std::vector<float> out(groups.rows.size() * 64 + 1, kPoison);
  std::vector<float*> dst;
  for (size_t g = 0; g < groups.rows.size(); ++g) dst.push_back(&out[1 + g * 64]);
  const std::vector<uint8_t> first(groups.rows.size(), 1);
  AccumulateRows(groups, 0, groups.rows.size(), 0, 64, problem.raw_dy.data(), 64, dst.data(),
                 first.data(), FirstWrites::kAroundCaches);
  EXPECT_EQ(std::count(out.begin(), out.end(), kPoison), 1);
}

TEST(AccumulateRowsTest, OnlyWhatNoCacheKeepsGoesAroundIt) {
  constexpr uint64_t kMiB = 1 << 20;
  EXPECT_EQ(FasterFirstWrites(2 * kMiB, 64, false), FirstWrites::kAroundCaches);
  EXPECT_EQ(FasterFirstWrites(2 * kMiB, 64, true), FirstWrites::kCached);
  EXPECT_EQ(FasterFirstWrites(10 * kMiB, 16, true), FirstWrites::kAroundCaches);
  EXPECT_EQ(FasterFirstWrites(2 * kMiB, 4, false), FirstWrites::kCached);
  EXPECT_EQ(FasterFirstWrites(kMiB / 2, 64, false), FirstWrites::kCached);
}

TEST(AccumulateRowsTest, PaddingStaysZeroWhenWeightsAreNotFinite) {
  Problem problem(3, 1, 1, 17, 4);
  for (float& weight : problem.weights) weight = kInfinity;
  problem.Repack();
  const std::vector<float> out = RowGradients(problem, 1024);
  for (size_t i = 0; i < out.size(); ++i) {
    if (i % 32 < 17) {
      EXPECT_FALSE(std::isfinite(out[i]));
    } else {
      EXPECT_EQ(out[i], 0);
    }
  }
}

TEST(TargetsTest, PairKernelsGiveTheSameBits) {
  for (const size_t columns : {1, 17, 64, 129, 512}) {
    const Problem bf16(33, 2, 5, columns, 11, 16, RowType::kBf16);
    ExpectSameOnAllTargets<float>([&] { return Reduce(bf16, columns); });
    ExpectSameOnAllTargets<int64_t>([&] { return Dots(bf16, bf16.Blocks()); });
    const Problem problem(33, 2, 5, columns, 11);
    ExpectSameOnAllTargets<float>([&] { return Reduce(problem, columns); });
    ExpectSameOnAllTargets<int64_t>([&] { return Dots(problem, problem.Blocks()); });
    ExpectSameOnAllTargets<float>([&] { return RowGradients(problem, 64); });
    ExpectSameOnAllTargets<int8_t>([&] {
      std::vector<int8_t> out;
      for (size_t t = 0; t < problem.tokens; ++t) {
        out.push_back(DotExponent(&problem.dy[t * columns], columns));
      }
      return out;
    });
  }
}

TEST(TargetsTest, OverflowAndNaNsAgreeToo) {
  Problem problem(5, 1, 9, 65, 12);
  for (size_t i = 0; i < problem.table.size(); i += 97) problem.table[i] *= 1e30f;
  for (size_t i = 0; i < problem.table.size(); i += 501) problem.table[i] = kNaN;
  problem.ClearPadding();
  ExpectSameBits(problem.NaiveDots(problem.Blocks()), Dots(problem, problem.Blocks()), "dots");
  ExpectSameOnAllTargets<int64_t>([&] { return Dots(problem, problem.Blocks()); });
}

}  // namespace
}  // namespace mf
