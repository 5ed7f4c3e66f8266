// Speed of the kernels of a memory layer beside what the machine can do, one core: random reads of
// 2 KiB rows with many rows in flight, and memcpy. K = 64 tables, h = 512 columns, 1024 tokens.
//
//   kernels_bench [--large BYTES] [--repeats N]
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/kernels/generate.h"
#include "common/kernels/pairs.h"
#include "pserver/kernels/optimizer.h"

// The order of these matters: targets, then this file once per target.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/bench/kernels_bench.cpp"
#include "common/kernels/targets-inl.h"
#include "hwy/foreach_target.h"
#include "common/kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace mf {
namespace HWY_NAMESPACE {
namespace {

/// Reads `count` rows of `columns` floats, 16 rows interleaved: nothing but loads and adds.
float ReadRows(const float* const* rows, size_t count, size_t columns) {
  constexpr size_t kFlight = 16;
  V32 sums[kVectors];
  for (size_t v = 0; v < kVectors; ++v) sums[v] = hn::Zero(F32());
  for (size_t r = 0; r + kFlight <= count; r += kFlight) {
    for (size_t c = 0; c < columns; c += kStep) {
      for (size_t i = 0; i < kFlight; ++i) {
        for (size_t v = 0; v < kVectors; ++v) {
          sums[v] = hn::Add(sums[v], hn::LoadU(F32(), rows[r + i] + c + v * kLanes));
        }
      }
    }
  }
  for (size_t v = 1; v < kVectors; ++v) sums[0] = hn::Add(sums[0], sums[v]);
  return hn::GetLane(hn::SumOfLanes(F32(), sums[0]));
}

/// Float dots as one would write them without the fixed point: lanes kept over all columns, one
/// horizontal sum. The loop nest, groups and prefetches are those of PairDots.
constexpr size_t kGroup = kLanes == kStep ? 8 : 4;
HWY_INLINE void FloatDotsOfToken(const PairBatch& batch, size_t pair, size_t token,
                                 size_t next_pair, size_t next_token, size_t begin, size_t end,
                                 const float* dy, float* dots) {
  const float* rows[kGroup];
  const float* next[kGroup];
  V32 sums[kGroup][kVectors];
  for (size_t i = 0; i < kGroup; ++i) {
    rows[i] = batch.rows[(pair + i) * batch.tokens + token];
    next[i] = batch.rows[(next_pair + i) * batch.tokens + next_token];
    for (size_t v = 0; v < kVectors; ++v) sums[i][v] = hn::Zero(F32());
  }
  for (size_t block = begin; block < end; block += 64) {
    for (size_t i = 0; i < kGroup; ++i) {
      for (size_t c = block; c < block + 64; c += 16) PrefetchLine(next[i] + c);
    }
    for (size_t c = block; c < block + 64; c += kStep) {
      for (size_t v = 0; v < kVectors; ++v) {
        const V32 gradient = hn::LoadU(F32(), dy + c + v * kLanes);
        for (size_t i = 0; i < kGroup; ++i) {
          sums[i][v] = Fma(hn::LoadU(F32(), rows[i] + c + v * kLanes), gradient, sums[i][v]);
        }
      }
    }
  }
  for (size_t i = 0; i < kGroup; ++i) {
    V32 sum = sums[i][0];
    for (size_t v = 1; v < kVectors; ++v) sum = hn::Add(sum, sums[i][v]);
    float& out = dots[(pair + i) * batch.tokens + token];
    const float dot = hn::GetLane(hn::SumOfLanes(F32(), sum));
    out = begin == 0 ? dot : out + dot;
  }
}

/// `slice` columns at a time and tokens inside, or whole rows and tokens outside if it is 0.
void FloatDots(const PairBatch& batch, size_t columns, size_t slice, const float* dy, float* dots) {
  const size_t tokens = batch.tokens;
  if (slice == 0) {
    for (size_t t = 0; t < tokens; ++t) {
      for (size_t p = 0; p < batch.pairs; p += kGroup) {
        const bool wraps = p + kGroup >= batch.pairs;
        FloatDotsOfToken(batch, p, t, wraps ? 0 : p + kGroup, std::min(t + wraps, tokens - 1), 0,
                         columns, dy + t * columns, dots);
      }
    }
    return;
  }
  for (size_t begin = 0; begin < columns; begin += slice) {
    for (size_t p = 0; p < batch.pairs; p += kGroup) {
      for (size_t t = 0; t < tokens; ++t) {
        FloatDotsOfToken(batch, p, t, p, std::min(t + 1, tokens - 1), begin, begin + slice,
                         dy + t * columns, dots);
      }
    }
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace mf
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mf {
HWY_EXPORT(ReadRows);
HWY_EXPORT(FloatDots);

namespace {

constexpr size_t kTables = 64, kColumns = 512, kTokens = 1024, kBlock = 64;
constexpr double kGiga = 1e9;

struct Options {
  size_t large_bytes = size_t{2} << 30;
  int repeats = 7;
};

struct Free {
  void operator()(float* p) const { std::free(p); }
};
using Floats = std::unique_ptr<float, Free>;

Floats NewFloats(size_t count) {
  Floats out(
      static_cast<float*>(std::aligned_alloc(4096, (count * sizeof(float) + 4095) / 4096 * 4096)));
  if (!out) {
    std::fprintf(stderr, "kernels_bench: no memory for %zu floats; use a smaller --large\n", count);
    std::exit(1);
  }
  for (size_t i = 0; i < count; ++i) out.get()[i] = 1e-3f * static_cast<float>(i % 1021);
  return out;
}

/// Seconds of the fastest of some runs.
double Fastest(int repeats, const std::function<void()>& run) {
  double best = std::numeric_limits<double>::infinity();
  run();
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::min(best, seconds.count());
  }
  return best;
}

/// The same for two things to be compared, in turns, so that a busy moment hits both.
std::pair<double, double> FastestOfTwo(int repeats, const std::function<void()>& a,
                                       const std::function<void()>& b) {
  std::pair<double, double> best{std::numeric_limits<double>::infinity(),
                                 std::numeric_limits<double>::infinity()};
  for (int i = 0; i < repeats; ++i) {
    best.first = std::min(best.first, Fastest(1, a));
    best.second = std::min(best.second, Fastest(1, b));
  }
  return best;
}

volatile float sink;

/// GB/s of random 2 KiB rows out of `bytes`.
double RandomReadRate(size_t bytes, int repeats) {
  const size_t rows = bytes / (kColumns * sizeof(float)), reads = 1 << 16;
  const Floats data = NewFloats(rows * kColumns);
  std::mt19937_64 rng(1);
  std::vector<const float*> order(reads);
  for (const float*& row : order) row = data.get() + rng() % rows * kColumns;
  const double seconds = Fastest(
      repeats, [&] { sink = HWY_DYNAMIC_DISPATCH(ReadRows)(order.data(), reads, kColumns); });
  return static_cast<double>(reads * kColumns * sizeof(float)) / seconds / kGiga;
}

double CopyRate(size_t bytes, int repeats) {
  const Floats from = NewFloats(bytes / 4), to = NewFloats(bytes / 4);
  const double seconds = Fastest(repeats, [&] {
    std::memcpy(to.get(), from.get(), bytes);
    sink = to.get()[bytes / 8];
  });
  return static_cast<double>(bytes) / seconds / kGiga;
}

/// One memory layer of kTables tables with 2^tau rows, and a batch that meets it.
struct Layer {
  size_t rows_per_table;
  Floats table, dy, y;
  std::vector<uint32_t> buckets, order;
  std::vector<const float*> rows;
  std::vector<float> weights;
  std::vector<int8_t> exponents;
  std::vector<ColumnRange> blocks;
  std::vector<RowGroups> groups;
  std::vector<int64_t> dots;
  std::vector<float> float_dots;
  Floats gradients;
  std::vector<std::vector<float*>> dst;
  std::vector<uint8_t> first;

  explicit Layer(unsigned tau) : rows_per_table(size_t{1} << tau) {
    constexpr size_t kPairs = kTables * kTokens;
    table = NewFloats(kTables * rows_per_table * kColumns);
    dy = NewFloats(kTokens * kColumns);
    y = NewFloats(kTokens * kColumns);
    std::mt19937 rng(2);
    buckets.resize(kPairs);
    rows.resize(kPairs);
    weights.resize(kPairs);
    for (size_t i = 0; i < kPairs; ++i) {
      buckets[i] = static_cast<uint32_t>(rng() % rows_per_table);
      rows[i] = table.get() + (i / kTokens * rows_per_table + buckets[i]) * kColumns;
      weights[i] = 1e-3f * static_cast<float>(rng() % 1000);
    }
    for (size_t t = 0; t < kTokens; ++t) {
      exponents.push_back(DotExponent(dy.get() + t * kColumns, kColumns));
    }
    for (size_t c = 0; c < kColumns; c += kBlock) {
      blocks.push_back({static_cast<int64_t>(c), static_cast<int64_t>(c + kBlock)});
    }
    dots.resize(kPairs);
    float_dots.resize(kPairs);
    groups.resize(kTables);
    gradients = NewFloats(kPairs * kColumns);
    dst.resize(kTables);
    first.assign(kTokens, 1);
    for (size_t k = 0; k < kTables; ++k) {
      Group(k);
      for (size_t g = 0; g < groups[k].rows.size(); ++g) {
        dst[k].push_back(gradients.get() + (k * kTokens + g) * kColumns);
      }
      order.insert(order.end(), groups[k].token.begin(), groups[k].token.end());
    }
  }
  PairBatch batch() const { return {kTokens, kTables, rows.data(), weights.data()}; }
  void Group(size_t k) {
    GroupByRow(&buckets[k * kTokens], &weights[k * kTokens], kTokens, 1, rows_per_table, groups[k]);
  }
  void Forward() { GatherReduce(batch(), 0, kTokens, kColumns, y.get(), kColumns); }
  void ForwardGrouped() {
    GatherReduceGrouped(batch(), order.data(), 0, kColumns, y.get(), kColumns);
  }
  void ExactDots() {
    PairDots(batch(), 0, kTokens, blocks, dy.get(), kColumns, exponents.data(), dots.data());
  }
  void PlainDots() {
    // The order that PairDots takes for tables of this size.
    const size_t slice = rows_per_table <= 256 ? kColumns : 0;
    HWY_DYNAMIC_DISPATCH(FloatDots)(batch(), kColumns, slice, dy.get(), float_dots.data());
  }
  /// Cut into ranges of `width` columns, as servers cut work into column blocks.
  void RowGradients(size_t width) {
    for (size_t c = 0; c < kColumns; c += width) {
      for (size_t k = 0; k < kTables; ++k) {
        AccumulateRows(groups[k], 0, groups[k].rows.size(), c, c + width, dy.get(), kColumns,
                       dst[k].data(), first.data());
      }
    }
  }
};

constexpr double kLayerBytes = double{kTables} * kTokens * kColumns * sizeof(float);

/// `bytes` of rows (or of dy) are read in `seconds`.
void PrintLine(const std::string& name, double seconds, double bytes, double machine) {
  const double rate = bytes / seconds / kGiga;
  std::printf("  %-34s %8.2f ms %8.1f GB/s %8.2f x machine %10.0f tokens/s\n", name.c_str(),
              seconds * 1e3, rate, rate / machine, kTokens / seconds);
}

void PrintLayer(unsigned tau, double machine, int repeats) {
  Layer layer(tau);
  std::printf("tau = %u: %zu MiB of tables; machine: %.1f GB/s\n", tau,
              kTables * layer.rows_per_table * kColumns * sizeof(float) >> 20, machine);
  const auto time = [&](const char* name, const std::function<void()>& run) {
    const double seconds = Fastest(repeats, run);
    PrintLine(name, seconds, kLayerBytes, machine);
    return seconds;
  };
  time("forward", [&] { layer.Forward(); });
  time("forward, grouped", [&] { layer.ForwardGrouped(); });
  const auto [exact, plain] = FastestOfTwo(
      2 * repeats, [&] { layer.ExactDots(); }, [&] { layer.PlainDots(); });
  PrintLine("dots, fixed point", exact, kLayerBytes, machine);
  PrintLine("dots, float", plain, kLayerBytes, machine);
  time("row gradients by block", [&] { layer.RowGradients(kBlock); });
  const double rows = time("row gradients", [&] { layer.RowGradients(kColumns); });
  PrintLine("backward (dots + row gradients)", exact + rows, 2 * kLayerBytes, machine);
  const double grouping = Fastest(repeats, [&] {
    for (size_t k = 0; k < kTables; ++k) layer.Group(k);
  });
  std::printf("  %-34s %8.2f ms\n", "grouping by row", grouping * 1e3);
  std::printf("  fixed point costs %.1f%% of the dots, %.1f%% of the backward\n",
              100 * (exact - plain) / plain, 100 * (exact - plain) / (plain + rows));
}

void PrintElementwise(int repeats) {
  constexpr size_t kCount = size_t{1} << 14, kSteps = 64;
  std::vector<Floats> state;
  for (int i = 0; i < 4; ++i) state.push_back(NewFloats(kCount));
  const auto per_number = [&](const char* name, double numbers, const std::function<void()>& run) {
    std::printf("  %-34s %8.3f ns a number\n", name, Fastest(repeats, run) * 1e9 / numbers);
  };
  std::printf("elementwise, in cache\n");
  per_number("generate", kCount, [&] { GenerateNormal(1, 2, 0, kCount, 1, 1, state[0].get()); });
  per_number("adam step", kCount, [&] {
    AdamStep({}, 1e-3, 0.1, 5, 1, state[3].get(), state[0].get(), state[1].get(), state[2].get(),
             kCount);
  });
  const std::vector<float> lr(kSteps, 1e-3f);
  per_number("adam catch-up, a missed step", double{kCount} * kSteps, [&] {
    for (size_t c = 0; c < kCount; c += kBlock) {
      AdamCatchUp({}, lr, 0.1, 5, 1, 0, state[0].get() + c, state[1].get() + c, state[2].get() + c,
                  kBlock);
    }
  });
}

}  // namespace

void PrintKernelTable(const Options& options) {
  const double small = RandomReadRate(size_t{32} << 20, options.repeats);
  const double large = RandomReadRate(options.large_bytes, options.repeats);
  std::printf("machine, one core (%s)\n",
              hwy::TargetName(hwy::SupportedAndGeneratedTargets().front()));
  std::printf("  random 2 KiB rows of 32 MiB  %8.1f GB/s\n", small);
  std::printf("  random 2 KiB rows of %zu MiB %8.1f GB/s\n", options.large_bytes >> 20, large);
  std::printf("  memcpy of 256 MiB            %8.1f GB/s copied\n",
              CopyRate(size_t{256} << 20, options.repeats));
  PrintLayer(8, small, options.repeats);
  PrintLayer(13, large, options.repeats);
  PrintElementwise(options.repeats);
}

int BenchMain(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--large" && i + 1 < argc) {
      options.large_bytes = std::strtoull(argv[++i], nullptr, 10);
    } else if (flag == "--repeats" && i + 1 < argc) {
      options.repeats = std::atoi(argv[++i]);
    } else {
      std::fprintf(stderr, "usage: kernels_bench [--large BYTES] [--repeats N]\n");
      return 2;
    }
  }
  PrintKernelTable(options);
  return 0;
}

}  // namespace mf

int main(int argc, char** argv) { return mf::BenchMain(argc, argv); }
#endif
