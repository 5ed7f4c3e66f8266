// Memory layers on a GPU (worker/compute/cuda/kernels/rows.h) against loops written here: sums bit
// by bit against the same chain of FMAs, dots against double sums.
#include "worker/compute/cuda/kernels/rows.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "tests/gpu/ops/harness.h"

namespace mf::gpu_test {
namespace {

enum class Skew { kUniform, kOneRow, kHalfOneRow };

struct Shape {
  size_t tokens;
  size_t tables;
  size_t probes;
  size_t rows_per_table;
  int index_bytes;
  Skew skew;
  size_t columns;
};

std::string Name(const Shape& shape) {
  return std::to_string(shape.tokens) + " tokens, " + std::to_string(shape.tables) + " tables x " +
         std::to_string(shape.rows_per_table) + " rows, " + std::to_string(shape.probes) +
         " probes, " + std::to_string(shape.index_bytes) + " byte indices, " +
         std::to_string(shape.columns) + " columns, skew " +
         std::to_string(static_cast<int>(shape.skew));
}

std::vector<unsigned char> Narrow(const std::vector<uint32_t>& numbers, int bytes) {
  std::vector<unsigned char> out(numbers.size() * static_cast<size_t>(bytes));
  for (size_t i = 0; i < numbers.size(); ++i) {  // little-endian, as GPUs are
    std::memcpy(&out[i * static_cast<size_t>(bytes)], &numbers[i], static_cast<size_t>(bytes));
  }
  return out;
}

std::vector<uint32_t> RandomIndices(const Shape& shape) {
  std::vector<uint32_t> indices(shape.tables * shape.probes * shape.tokens);
  const auto any = [&] { return static_cast<uint32_t>(Random()() % shape.rows_per_table); };
  for (size_t k = 0; k < shape.tables; ++k) {
    const uint32_t favourite = any();
    for (size_t i = 0; i < shape.probes * shape.tokens; ++i) {
      const bool liked =
          shape.skew == Skew::kOneRow || (shape.skew == Skew::kHalfOneRow && Random()() % 2 == 0);
      indices[k * shape.probes * shape.tokens + i] = liked ? favourite : any();
    }
  }
  return indices;
}

/// A hash on both sides.
class Hashed {
 public:
  explicit Hashed(const Shape& shape)
      : shape_(shape),
        indices_(RandomIndices(shape)),
        weights_(RandomNormals(indices_.size())),
        gpu_indices_(Narrow(indices_, shape.index_bytes)),
        gpu_weights_(weights_) {}

  cuda::Pairs pairs() const {
    cuda::Pairs pairs;
    pairs.tokens = shape_.tokens;
    pairs.tables = shape_.tables;
    pairs.probes = shape_.probes;
    pairs.rows_per_table = shape_.rows_per_table;
    pairs.index_bytes = shape_.index_bytes;
    pairs.indices = gpu_indices_.data();
    pairs.weights = gpu_weights_.data();
    return pairs;
  }
  size_t count() const { return shape_.tables * shape_.probes; }
  size_t Row(size_t pair, size_t token) const {
    return pair / shape_.probes * shape_.rows_per_table + indices_[pair * shape_.tokens + token];
  }
  float Weight(size_t pair, size_t token) const { return weights_[pair * shape_.tokens + token]; }

 private:
  const Shape shape_;
  const std::vector<uint32_t> indices_;
  const std::vector<float> weights_;
  const Array<unsigned char> gpu_indices_;
  const Array<float> gpu_weights_;
};

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

/// Numbers in [-1, 1), faster to make than normals.
std::vector<float> RandomUniforms(size_t count) {
  std::vector<float> out(count);
  for (float& x : out) x = static_cast<float>(static_cast<int64_t>(Random()()) >> 40) * 0x1p-23f;
  return out;
}

/// An array on the GPU that begins `shift` floats behind a 256-byte boundary.
class Shifted {
 public:
  Shifted(size_t count, size_t shift) : array_(count + shift), shift_(shift) {}
  Shifted(std::vector<float> from, size_t shift) : array_(Padded(from, shift)), shift_(shift) {}
  float* data() const { return array_.data() + shift_; }
  std::vector<float> Get() const {
    std::vector<float> all = array_.Get();
    all.erase(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(shift_));
    return all;
  }

 private:
  static std::vector<float> Padded(std::vector<float>& from, size_t shift) {
    from.insert(from.begin(), shift, std::numeric_limits<float>::quiet_NaN());
    return std::move(from);
  }
  Array<float> array_;
  size_t shift_;
};

void CheckGatherReduce(const Shape& shape, const Hashed& hashed, const std::vector<float>& table,
                       size_t shift) {
  const size_t columns = shape.columns;
  std::vector<float> expected(shape.tokens * columns, 0.0f);
  for (size_t t = 0; t < shape.tokens; ++t) {
    for (size_t p = 0; p < hashed.count(); ++p) {
      const float* row = &table[hashed.Row(p, t) * columns];
      float* y = &expected[t * columns];
      for (size_t c = 0; c < columns; ++c) y[c] = std::fmaf(hashed.Weight(p, t), row[c], y[c]);
    }
  }
  const Shifted gpu_table(table, shift);
  for (int turn = 0; turn < 2; ++turn) {
    const Shifted y(shape.tokens * columns, shift);
    cuda::GatherReduce(Stream(), hashed.pairs(), gpu_table.data(), columns, y.data());
    Expect(SameBits(y.Get(), expected), "GatherReduce, shift %zu, turn %d: %s", shift, turn,
           Name(shape).c_str());
  }
}

/// The dots that differ from double sums by more than float sums may: 32 lanes that each add up
/// columns / 32 products or fewer, then a tree, at one rounding each.
size_t WrongDots(const Shape& shape, const Hashed& hashed, const std::vector<float>& table,
                 const std::vector<float>& dy, const std::vector<float>& got) {
  const size_t columns = shape.columns;
  size_t wrong = 0;
  for (size_t p = 0; p < hashed.count(); ++p) {
    for (size_t t = 0; t < shape.tokens; ++t) {
      const float* row = &table[hashed.Row(p, t) * columns];
      double sum = 0, sizes = 0;
      for (size_t c = 0; c < columns; ++c) {
        const double product = double{row[c]} * double{dy[t * columns + c]};
        sum += product;
        sizes += std::abs(product);
      }
      const double roundings = static_cast<double>(columns) / 32 + 10;
      const double allowed = roundings * std::numeric_limits<float>::epsilon() / 2 * sizes;
      wrong += !(std::abs(double{got[p * shape.tokens + t]} - sum) <= allowed);
    }
  }
  return wrong;
}

void CheckPairDots(const Shape& shape, const Hashed& hashed, const std::vector<float>& table,
                   size_t shift) {
  const std::vector<float> dy = RandomNormals(shape.tokens * shape.columns);
  const Shifted gpu_table(table, shift);
  const Shifted gpu_dy(dy, shift);
  std::vector<float> first;
  for (int turn = 0; turn < 2; ++turn) {
    const Array<float> dweights(hashed.count() * shape.tokens);
    cuda::PairDots(Stream(), hashed.pairs(), gpu_table.data(), shape.columns, gpu_dy.data(),
                   dweights.data());
    const std::vector<float> got = dweights.Get();
    if (turn == 0) first = got;
    Expect(SameBits(got, first), "PairDots: other bits, %s", Name(shape).c_str());
  }
  const size_t wrong = WrongDots(shape, hashed, table, dy, first);
  Expect(wrong == 0, "PairDots, shift %zu: %zu of %zu wrong, %s", shift, wrong, first.size(),
         Name(shape).c_str());
}

/// The memory of a grouping.
class Groups {
 public:
  explicit Groups(const cuda::Pairs& pairs)
      : rows(pairs.most_rows()),
        begin(pairs.most_rows() + 1),
        entries(pairs.entries()),
        count(1),
        scratch_(cuda::RowGroupsScratchBytes(pairs)) {}

  cuda::RowGroups groups() const {
    return {rows.data(), begin.data(), entries.data(), count.data(), scratch_.data()};
  }

  Array<uint32_t> rows, begin, entries, count;

 private:
  RawArray scratch_;
};

/// What a grouping should be.
struct Expected {
  std::vector<uint32_t> rows, begin, entries;
};

Expected GroupsOf(const Shape& shape, const Hashed& hashed) {
  struct Entry {
    size_t row, token, pair;
    auto operator<=>(const Entry&) const = default;
  };
  std::vector<Entry> all;
  for (size_t p = 0; p < hashed.count(); ++p) {
    for (size_t t = 0; t < shape.tokens; ++t) all.push_back({hashed.Row(p, t), t, p});
  }
  std::sort(all.begin(), all.end());
  Expected expected;
  for (const Entry& entry : all) {
    if (expected.rows.empty() || expected.rows.back() != entry.row) {
      expected.rows.push_back(static_cast<uint32_t>(entry.row));
      expected.begin.push_back(static_cast<uint32_t>(expected.entries.size()));
    }
    expected.entries.push_back(static_cast<uint32_t>(entry.pair * shape.tokens + entry.token));
  }
  expected.begin.push_back(static_cast<uint32_t>(expected.entries.size()));
  return expected;
}

/// The first `count` numbers of an array on the GPU.
std::vector<uint32_t> First(const Array<uint32_t>& array, size_t count) {
  std::vector<uint32_t> all = array.Get();
  all.resize(std::min(count, all.size()));
  return all;
}

void CheckGroups(const Shape& shape, const Expected& expected, const Groups& groups) {
  const size_t count = groups.count.Get()[0];
  Expect(count == expected.rows.size(), "GroupByRow: %zu rows, not %zu, %s", count,
         expected.rows.size(), Name(shape).c_str());
  Expect(First(groups.rows, count) == expected.rows, "rows, %s", Name(shape).c_str());
  Expect(First(groups.begin, count + 1) == expected.begin, "begin, %s", Name(shape).c_str());
  Expect(groups.entries.Get() == expected.entries, "entries, %s", Name(shape).c_str());
}

void CheckRowGradients(const Shape& shape, const Hashed& hashed, size_t shift, int turns = 2) {
  const size_t columns = shape.columns;
  const std::vector<float> dy = RandomUniforms(shape.tokens * columns);
  const Expected expected = GroupsOf(shape, hashed);
  const size_t count = expected.rows.size();
  std::vector<float> sums(count * columns, 0.0f);
  std::vector<uint32_t> hits(count);
  for (size_t row = 0; row < count; ++row) {
    hits[row] = expected.begin[row + 1] - expected.begin[row];
    for (size_t i = expected.begin[row]; i < expected.begin[row + 1]; ++i) {
      const size_t token = expected.entries[i] % shape.tokens;
      const float weight = hashed.Weight(expected.entries[i] / shape.tokens, token);
      for (size_t c = 0; c < columns; ++c) {
        float& sum = sums[row * columns + c];
        sum = std::fmaf(weight, dy[token * columns + c], sum);
      }
    }
  }
  const Shifted gpu_dy(dy, shift);
  for (int turn = 0; turn < turns; ++turn) {
    const Groups groups(hashed.pairs());
    cuda::GroupByRow(Stream(), hashed.pairs(), groups.groups());
    CheckGroups(shape, expected, groups);
    const Shifted gradients(count * columns, shift);  // no more: beyond are guard bytes
    const Array<uint32_t> gpu_hits(count);
    cuda::RowGradients(Stream(), hashed.pairs(), groups.groups(), gpu_dy.data(), columns,
                       gradients.data(), gpu_hits.data());
    Expect(SameBits(gradients.Get(), sums), "RowGradients, shift %zu, turn %d: %s", shift, turn,
           Name(shape).c_str());
    Expect(gpu_hits.Get() == hits, "hits, %s", Name(shape).c_str());
  }
}

/// All numbers of tokens with all numbers of columns, the rest of the shape in turn.
std::vector<Shape> Shapes() {
  struct Layer {
    size_t tables, probes, rows_per_table;
    int index_bytes;
  };
  constexpr Layer kLayers[] = {{3, 1, 256, 1}, {1, 2, 16, 1},  {3, 3, 2, 4},   {1, 1, 1024, 2},
                               {3, 2, 16, 2},  {1, 3, 256, 4}, {3, 1, 1024, 4}};
  constexpr Skew kSkews[] = {Skew::kUniform, Skew::kHalfOneRow, Skew::kOneRow};
  std::vector<Shape> shapes;
  for (const size_t columns : {1, 3, 4, 16, 48, 130, 512}) {
    for (const size_t tokens : {1, 3, 64, 100, 257}) {
      const size_t turn = shapes.size() + Random()() % std::size(kLayers);
      const Layer& layer = kLayers[turn % std::size(kLayers)];
      shapes.push_back({tokens, layer.tables, layer.probes, layer.rows_per_table, layer.index_bytes,
                        kSkews[turn % std::size(kSkews)], columns});
    }
  }
  return shapes;
}

/// Arrays that are not 16-byte aligned although their rows could be.
size_t ShiftOf(const Shape& shape) { return shape.tokens == 100 ? 1 : 0; }

}  // namespace

GPU_TEST(RowsGatherReduce) {
  for (const Shape& shape : Shapes()) {
    const Hashed hashed(shape);
    CheckGatherReduce(shape, hashed, RandomUniforms(hashed.pairs().rows() * shape.columns),
                      ShiftOf(shape));
  }
}

GPU_TEST(RowsPairDots) {
  for (const Shape& shape : Shapes()) {
    const Hashed hashed(shape);
    CheckPairDots(shape, hashed, RandomUniforms(hashed.pairs().rows() * shape.columns),
                  ShiftOf(shape));
  }
}

GPU_TEST(RowsGroupByRowAndGradients) {
  for (const Shape& shape : Shapes()) CheckRowGradients(shape, Hashed(shape), ShiftOf(shape));
}

GPU_TEST(RowsOfManyPairs) {  // more than one chunk of pairs, with a rest
  const Shape shape = {37, 67, 2, 16, 1, Skew::kUniform, 20};
  const Hashed hashed(shape);
  const std::vector<float> table = RandomUniforms(hashed.pairs().rows() * shape.columns);
  CheckGatherReduce(shape, hashed, table, 0);
  CheckPairDots(shape, hashed, table, 0);
  CheckRowGradients(shape, hashed, 0);
}

GPU_TEST(RowsOfTablesLargerThanCaches) {  // work is cut into slices of columns and runs of tables
  const Shape shape = {33, 8, 3, 8192, 2, Skew::kUniform, 128};
  const Hashed hashed(shape);
  const std::vector<float> table = RandomUniforms(hashed.pairs().rows() * shape.columns);
  CheckGatherReduce(shape, hashed, table, 0);
  CheckPairDots(shape, hashed, table, 0);
}

GPU_TEST(RowsOfManyTokens) {  // dy is cut into slices; rows of thousands of entries
  const Shape shape = {9000, 1, 1, 8, 1, Skew::kUniform, 260};
  CheckRowGradients(shape, Hashed(shape), 0);
}

GPU_TEST(RowsOfAsManyEntriesAsAWarpSums) {  // and of one less or more
  for (size_t tokens = 62; tokens <= 67; ++tokens) {
    const Shape shape = {tokens, 3, 1, 16, 1, Skew::kOneRow, 40};
    CheckRowGradients(shape, Hashed(shape), 0);
  }
}

GPU_TEST(RowsGroupedInManyTiles) {  // more than a block turns into places in its first round
  const Shape shape = {67000, 4, 2, 65536, 2, Skew::kUniform, 1};
  const Hashed hashed(shape);
  const Groups groups(hashed.pairs());
  cuda::GroupByRow(Stream(), hashed.pairs(), groups.groups());
  CheckGroups(shape, GroupsOf(shape, hashed), groups);
}

GPU_TEST(RowsInGreatNumber) {  // more than the kernels for few and for many entries take in a round
  const Shape shape = {31000, 9, 1, size_t{1} << 20, 4, Skew::kHalfOneRow, 65};
  CheckRowGradients(shape, Hashed(shape), 0, 1);
}

GPU_TEST(RowsOfNothing) {
  const Shape shape = {0, 3, 1, 16, 1, Skew::kUniform, 4};
  const Hashed hashed(shape);
  const Array<float> table(RandomUniforms(48 * 4));
  const Array<float> none(size_t{0});
  cuda::GatherReduce(Stream(), hashed.pairs(), table.data(), 4, none.data());
  cuda::PairDots(Stream(), hashed.pairs(), table.data(), 4, none.data(), none.data());
  const Groups groups(hashed.pairs());
  cuda::GroupByRow(Stream(), hashed.pairs(), groups.groups());
  Expect(groups.count.Get()[0] == 0, "rows of no token");
  Expect(groups.begin.Get()[0] == 0, "entries of no token");
  const Array<uint32_t> hits(size_t{0});
  cuda::RowGradients(Stream(), hashed.pairs(), groups.groups(), none.data(), 4, none.data(),
                     hits.data());

  const Array<float> y(3 * 4);  // no table: sums are zero
  cuda::Pairs no_tables;
  no_tables.tokens = 3;
  cuda::GatherReduce(Stream(), no_tables, nullptr, 4, y.data());
  Expect(SameBits(y.Get(), std::vector<float>(12, 0.0f)), "sums of no row");
}

GPU_TEST(RowsTooManyForTheirTypes) {
  cuda::Pairs pairs;
  pairs.tables = 1 << 16;
  pairs.rows_per_table = 1 << 16;
  pairs.tokens = 1;
  bool thrown = false;
  try {
    cuda::RowGroupsScratchBytes(pairs);
  } catch (const cuda::CudaError&) {
    thrown = true;
  }
  Expect(thrown, "2^32 rows were taken");
}

GPU_TEST(RowsStaleAreTakenAndScattered) {
  constexpr size_t kTables = 3, kRows = 2048, kColumns = 20;
  const Array<uint64_t> stamps(std::vector<uint64_t>(kTables * kRows, 0));
  std::vector<uint64_t> expected_stamps(kTables * kRows, 0);
  std::vector<float> expected_table = RandomUniforms(kTables * kRows * kColumns);
  const Array<float> table(expected_table);
  for (const uint64_t now : {uint64_t{1}, uint64_t{1}, uint64_t{1} << 40, uint64_t{1} << 40}) {
    const Shape shape = {1500, kTables, 1, kRows, 2, Skew::kHalfOneRow, kColumns};
    const Hashed hashed(shape);
    const Groups groups(hashed.pairs());
    cuda::GroupByRow(Stream(), hashed.pairs(), groups.groups());
    for (int turn = 0; turn < 2; ++turn) {  // nothing is stale twice
      std::vector<uint32_t> expected;
      for (const uint32_t row : GroupsOf(shape, hashed).rows) {
        if (std::exchange(expected_stamps[row], now) != now) expected.push_back(row);
      }
      const Array<uint32_t> stale(hashed.pairs().most_rows());
      const Array<uint32_t> stale_count(size_t{1});
      cuda::TakeStale(Stream(), hashed.pairs(), groups.groups(), now, stamps.data(), stale.data(),
                      stale_count.data());
      const size_t count = stale_count.Get()[0];
      Expect(count == expected.size(), "turn %d: %zu stale rows, not %zu", turn, count,
             expected.size());
      Expect(First(stale, count) == expected, "turn %d: other stale rows", turn);
      Expect(stamps.Get() == expected_stamps, "turn %d: stamps", turn);

      const std::vector<float> values = RandomUniforms(count * kColumns);
      const Array<float> gpu_values(values);
      cuda::ScatterRows(Stream(), stale.data(), count, gpu_values.data(), kColumns, table.data());
      for (size_t i = 0; i < expected.size() && i < count; ++i) {
        std::copy_n(&values[i * kColumns], kColumns, &expected_table[expected[i] * kColumns]);
      }
      Expect(SameBits(table.Get(), expected_table), "turn %d: scattered rows", turn);
    }
  }
}

GPU_TEST(RowsScatteredOfAnyWidth) {
  for (const size_t columns : {1, 3, 4, 48, 130, 512}) {
    for (const size_t shift : {size_t{0}, size_t{1}}) {
      std::vector<float> expected = RandomUniforms(64 * columns);
      const Shifted table(expected, shift);
      const std::vector<uint32_t> rows = {63, 0, 17, 5, 6, 7, 40, 41, 42, 9};
      const std::vector<float> values = RandomUniforms(rows.size() * columns);
      const Array<uint32_t> gpu_rows(rows);
      const Shifted gpu_values(values, shift);
      cuda::ScatterRows(Stream(), gpu_rows.data(), rows.size(), gpu_values.data(), columns,
                        table.data());
      for (size_t i = 0; i < rows.size(); ++i) {
        std::copy_n(&values[i * columns], columns, &expected[rows[i] * columns]);
      }
      Expect(SameBits(table.Get(), expected), "%zu columns, shift %zu", columns, shift);
    }
  }
}

}  // namespace mf::gpu_test
