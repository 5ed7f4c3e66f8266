// What this machine can do, measured: random reads of rows with many in flight, and memcpy; and how
// times are taken. Numbers of a benchmark mean something beside these only.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <functional>
#include <memory>
#include <utility>

namespace mf {

constexpr double kGiga = 1e9;

struct Free {
  void operator()(float* p) const { std::free(p); }
};
using Floats = std::unique_ptr<float, Free>;

/// Page-aligned and written; ends the program if there is no memory.
Floats NewFloats(size_t count);

/// Seconds of the fastest of some runs, after one that is not counted.
double Fastest(int repeats, const std::function<void()>& run);
/// The same for two things to be compared, in turns, so that a busy moment hits both.
std::pair<double, double> FastestOfTwo(int repeats, const std::function<void()>& a,
                                       const std::function<void()>& b);

/// GB/s of random rows of `columns` floats out of `bytes`, one core.
double RandomReadRate(size_t bytes, size_t columns, int repeats);
/// GB/s copied, one core.
double CopyRate(size_t bytes, int repeats);

}  // namespace mf
