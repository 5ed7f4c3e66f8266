// The GPU tests of single operations need the CUDA toolkit and nothing else, so that they can be
// built on a machine that has only that; this is the little of a test library that they use.
//
//   GPU_TEST(NormForward) { ... Expect(error < 50, "width %zu: %g eps", width, error); }
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "worker/compute/cuda/kernels/launch.h"

namespace mf::gpu_test {

/// Registers `body` under `name` before main() begins; main() (ops/main.cpp) runs all.
struct Registration {
  Registration(const char* name, void (*body)());
};

#define GPU_TEST(name)                                                           \
  static void name();                                                            \
  static const ::mf::gpu_test::Registration registration_of_##name(#name, name); \
  static void name()

/// Counts a check; prints the message, printf style, if it does not hold.
void Expect(bool holds, const char* format, ...) __attribute__((format(printf, 2, 3)));

/// The generator of this run's inputs: another seed each time, printed by main(), --seed N repeats.
std::mt19937_64& Random();
std::vector<float> RandomNormals(size_t count, double spread = 1);

/// The stream that the tests run on; checks for errors at the end of each test.
cudaStream_t Stream();

/// An array on the GPU between two guard zones, poisoned when made (floats are NaN): what a kernel
/// does not write shows, and so does what it writes beyond the ends.
class RawArray {
 public:
  explicit RawArray(size_t bytes);
  RawArray(const void* from, size_t bytes);
  ~RawArray();  // checks the guard zones
  RawArray(const RawArray&) = delete;
  RawArray& operator=(const RawArray&) = delete;

  void* data() const { return base_ + kGuard; }
  void Download(void* to) const;  // waits for Stream()

  static constexpr size_t kGuard = 256;

 private:
  char* base_ = nullptr;
  size_t bytes_ = 0;
};

template <class T>
class Array {
 public:
  explicit Array(size_t count) : raw_(count * sizeof(T)), count_(count) {}
  explicit Array(const std::vector<T>& from)
      : raw_(from.data(), from.size() * sizeof(T)), count_(from.size()) {}
  T* data() const { return static_cast<T*>(raw_.data()); }
  std::vector<T> Get() const {
    std::vector<T> out(count_);
    raw_.Download(out.data());
    return out;
  }

 private:
  RawArray raw_;
  size_t count_;
};

std::vector<double> Wide(const std::vector<float>& x);

/// The largest difference, relative to the largest expected number, in float epsilons; infinite for
/// a NaN or another size. `size` is how large a number usually is: sums of a few numbers may happen
/// to cancel, and are then compared with that.
double Error(const std::vector<float>& got, const std::vector<double>& expected,
             double size = 1e-30);

/// How many of Error()'s epsilons a product on tensor cores may be off: their inputs are rounded to
/// 11 bits (TF32). The emulated GPU does not round, so that mistakes cannot hide behind it.
bool RoundsToTf32();

}  // namespace mf::gpu_test
