#include "tests/bench/machine.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

// The order of these matters: targets, then this file once per target.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/bench/machine.cpp"
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
}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace mf
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mf {
HWY_EXPORT(ReadRows);

Floats NewFloats(size_t count) {
  Floats out(
      static_cast<float*>(std::aligned_alloc(4096, (count * sizeof(float) + 4095) / 4096 * 4096)));
  if (!out) {
    std::fprintf(stderr, "no memory for %zu floats\n", count);
    std::exit(1);
  }
  for (size_t i = 0; i < count; ++i) out.get()[i] = 1e-3f * static_cast<float>(i % 1021);
  return out;
}

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

namespace {

volatile float sink;

}  // namespace

double RandomReadRate(size_t bytes, size_t columns, int repeats) {
  const size_t rows = bytes / (columns * sizeof(float)), reads = 1 << 16;
  const Floats data = NewFloats(rows * columns);
  std::mt19937_64 rng(1);
  std::vector<const float*> order(reads);
  for (const float*& row : order) row = data.get() + rng() % rows * columns;
  const double seconds = Fastest(
      repeats, [&] { sink = HWY_DYNAMIC_DISPATCH(ReadRows)(order.data(), reads, columns); });
  return static_cast<double>(reads * columns * sizeof(float)) / seconds / kGiga;
}

double CopyRate(size_t bytes, int repeats) {
  const Floats from = NewFloats(bytes / 4), to = NewFloats(bytes / 4);
  const double seconds = Fastest(repeats, [&] {
    std::memcpy(to.get(), from.get(), bytes);
    sink = to.get()[bytes / 8];
  });
  return static_cast<double>(bytes) / seconds / kGiga;
}
}  // namespace mf
#endif
