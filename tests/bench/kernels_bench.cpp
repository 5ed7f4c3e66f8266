// Speed of the kernels of a memory layer beside what the machine can do, one core: random reads of
// 2 KiB rows with many rows in flight, and memcpy. K = 64 tables, h = 512 columns, 1024 tokens.
//
//   kernels_bench [--large BYTES] [--repeats N]
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
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
#include "pserver/table/optimizers/adam.h"
#include "tests/bench/support/flags.h"
#include "tests/bench/support/layer.h"
#include "tests/bench/support/machine.h"

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
    rows[i] = static_cast<const float*>(batch.rows[(pair + i) * batch.tokens + token]);
    next[i] = static_cast<const float*>(batch.rows[(next_pair + i) * batch.tokens + next_token]);
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
HWY_EXPORT(FloatDots);

namespace {

constexpr size_t kTables = 64, kColumns = 512, kTokens = 1024, kBlock = BenchLayer::kBlock;

struct Options {
  size_t large_bytes = size_t{2} << 30;
  int repeats = 7;
};

constexpr double kLayerBytes = double{kTables} * kTokens * kColumns * sizeof(float);

/// `bytes` of rows (or of dy) are read in `seconds`.
void PrintLine(const std::string& name, double seconds, double bytes, double machine) {
  const double rate = bytes / seconds / kGiga;
  std::printf("  %-34s %8.2f ms %8.1f GB/s %8.2f x machine %10.0f tokens/s\n", name.c_str(),
              seconds * 1e3, rate, rate / machine, kTokens / seconds);
}

void PrintLayer(unsigned tau, double machine, int repeats) {
  BenchLayer layer(
      {.tables = kTables, .rows = size_t{1} << tau, .columns = kColumns, .tokens = kTokens});
  // The order that PairDots takes for tables of this size.
  const size_t slice = layer.shape.rows <= 256 ? kColumns : 0;
  std::vector<float> float_dots(layer.shape.pairs());
  std::printf("tau = %u: %zu MiB of tables; machine: %.1f GB/s\n", tau,
              layer.shape.table_bytes() >> 20, machine);
  const auto time = [&](const char* name, const std::function<void()>& run) {
    const double seconds = Fastest(repeats, run);
    PrintLine(name, seconds, kLayerBytes, machine);
    return seconds;
  };
  time("forward", [&] { layer.Forward(); });
  const auto [exact, plain] = FastestOfTwo(
      2 * repeats, [&] { layer.ExactDots(); },
      [&] {
        HWY_DYNAMIC_DISPATCH(FloatDots)
        (layer.batch(), kColumns, slice, layer.dy.get(), float_dots.data());
      });
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
  const double small = RandomReadRate(size_t{32} << 20, kColumns, options.repeats);
  const double large = RandomReadRate(options.large_bytes, kColumns, options.repeats);
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
  const std::string usage = "kernels_bench [--large BYTES] [--repeats N]";
  Options options;
  ParseFlags(argc, argv, usage,
             {{"--large", &options.large_bytes}, {"--repeats", &options.repeats}});
  if (options.large_bytes == 0 || options.repeats < 1) EndWithUsage(usage);
  PrintKernelTable(options);
  return 0;
}

}  // namespace mf

int main(int argc, char** argv) { return mf::BenchMain(argc, argv); }
#endif
