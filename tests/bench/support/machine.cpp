#include "tests/bench/support/machine.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "common/base/check.h"
#include "common/base/thread_pool.h"

// The order of these matters: targets, then this file once per target.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/bench/support/machine.cpp"
#include "common/kernels/targets-inl.h"
#include "hwy/foreach_target.h"
#include "common/kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace mf {
namespace HWY_NAMESPACE {
namespace {

/// Reads `count` rows of `columns` floats, kFlight rows interleaved: nothing but loads and adds.
template <size_t kFlight>
float ReadRows(const float* const* rows, size_t count, size_t columns) {
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

float ReadRows8(const float* const* rows, size_t count, size_t columns) {
  return ReadRows<8>(rows, count, columns);
}
float ReadRows16(const float* const* rows, size_t count, size_t columns) {
  return ReadRows<16>(rows, count, columns);
}

void Sweep(float* const* rows, size_t count, size_t plane, const float* gradients, size_t columns) {
  for (size_t r = 0; r < count; ++r) {
    for (size_t c = 0; c < columns; c += kLanes) {
      const V32 gradient = hn::LoadU(F32(), gradients + r * columns + c);
      for (size_t p = 0; p < 3; ++p) {
        float* at = rows[r] + p * plane + c;
        hn::StoreU(hn::Add(hn::LoadU(F32(), at), gradient), F32(), at);
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
HWY_EXPORT(ReadRows8);
HWY_EXPORT(ReadRows16);
HWY_EXPORT(Sweep);

Floats NewFloats(size_t count, bool huge) {
  constexpr size_t kHugePage = size_t{2} << 20;
  const size_t bytes = (count * sizeof(float) + kHugePage - 1) / kHugePage * kHugePage;
  Floats out(static_cast<float*>(std::aligned_alloc(kHugePage, bytes)));
  if (!out) {
    std::fprintf(stderr, "no memory for %zu floats\n", count);
    std::exit(1);
  }
  madvise(out.get(), bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  for (size_t i = 0; i < count; ++i) out.get()[i] = 1e-3f * static_cast<float>(i % 1021);
  return out;
}

double SecondsOf(const std::function<void()>& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double Fastest(int repeats, const std::function<void()>& run) {
  double best = std::numeric_limits<double>::infinity();
  run();
  for (int i = 0; i < repeats; ++i) {
    best = std::min(best, SecondsOf(run));
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

double FastestOfBurst(const std::function<void()>& run) {
  constexpr double kSeconds = 0.03;
  constexpr int kRuns = 2;
  double best = std::numeric_limits<double>::infinity(), total = 0;
  run();
  for (int runs = 0; runs < kRuns || total < kSeconds; ++runs) {
    const double seconds = SecondsOf(run);
    best = std::min(best, seconds);
    total += seconds;
  }
  return best;
}

namespace {

volatile float sink;

/// body(begin, end) for each thread's share of `count`.
void Split(ThreadPool& pool, size_t count, const std::function<void(size_t, size_t)>& body) {
  const size_t jobs = static_cast<size_t>(pool.threads());
  pool.ParallelFor(jobs,
                   [&](size_t job, int) { body(job * count / jobs, (job + 1) * count / jobs); });
}

}  // namespace

void ReadRowsInParallel(ThreadPool& pool, const std::vector<const float*>& rows, size_t columns,
                        size_t in_flight) {
  MF_CHECK(in_flight == 8 || in_flight == 16);
  Split(pool, rows.size(), [&](size_t begin, size_t end) {
    if (in_flight == 8) {
      sink = HWY_DYNAMIC_DISPATCH(ReadRows8)(rows.data() + begin, end - begin, columns);
    } else {
      sink = HWY_DYNAMIC_DISPATCH(ReadRows16)(rows.data() + begin, end - begin, columns);
    }
  });
}

void SweepRows(ThreadPool& pool, const std::vector<float*>& rows, size_t plane,
               const float* gradients, size_t columns) {
  Split(pool, rows.size(), [&](size_t begin, size_t end) {
    HWY_DYNAMIC_DISPATCH(Sweep)
    (rows.data() + begin, end - begin, plane, gradients + begin * columns, columns);
  });
}

double RandomReadRate(size_t bytes, size_t columns, int repeats) {
  const size_t rows = bytes / (columns * sizeof(float)), reads = 1 << 16;
  const Floats data = NewFloats(rows * columns);
  std::mt19937_64 rng(1);
  std::vector<const float*> order(reads);
  for (const float*& row : order) row = data.get() + rng() % rows * columns;
  const double seconds = Fastest(
      repeats, [&] { sink = HWY_DYNAMIC_DISPATCH(ReadRows16)(order.data(), reads, columns); });
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
