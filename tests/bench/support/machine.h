// What this machine can do, measured: random reads of rows with many in flight, an in-place
// read-modify-write of rows, and memcpy; and how times are taken. Numbers of a benchmark mean
// something beside these only.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace mf {

class ThreadPool;

constexpr double kGiga = 1e9;

struct Free {
  void operator()(float* p) const { std::free(p); }
};
using Floats = std::unique_ptr<float, Free>;

/// Written; huge pages are asked for if `huge`, and are there if the kernel has them. Ends the
/// program if there is no memory.
Floats NewFloats(size_t count, bool huge = true);

/// Of one run.
double SecondsOf(const std::function<void()>& run);
/// Seconds of the fastest of some runs, after one that is not counted.
double Fastest(int repeats, const std::function<void()>& run);
/// The same for two things to be compared, in turns, so that a busy moment hits both.
std::pair<double, double> FastestOfTwo(int repeats, const std::function<void()>& a,
                                       const std::function<void()>& b);

/// Seconds of the fastest run of a burst: at least 2 runs and 30 ms, after one that is not counted.
/// (The peer does the same: tests/bench/embedding_bag.py.)
double FastestOfBurst(const std::function<void()>& run);

/// Reads rows of `columns` floats, 8 or 16 of them interleaved, split over the pool's threads:
/// nothing but loads and adds. REQUIRES in_flight is 8 or 16.
void ReadRowsInParallel(ThreadPool& pool, const std::vector<const float*>& rows, size_t columns,
                        size_t in_flight);

/// What an Adam step must move: for row r, w = rows[r] and the same row of m and v, which lie
/// `plane` and 2 * `plane` floats after w, += gradient row r. In the order of `rows`.
void SweepRows(ThreadPool& pool, const std::vector<float*>& rows, size_t plane,
               const float* gradients, size_t columns);

/// GB/s of random rows of `columns` floats out of `bytes`, one core.
double RandomReadRate(size_t bytes, size_t columns, int repeats);
/// GB/s copied, one core.
double CopyRate(size_t bytes, int repeats);

}  // namespace mf
