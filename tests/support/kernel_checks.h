// What the kernel tests share: shapes, misaligned inputs, and the promise that every instruction
// set gives the same bits.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <vector>

// The kernels' choice of targets comes before Highway's headers.
// clang-format off
#include "common/kernels/targets-inl.h"
#include "hwy/highway.h"
// clang-format on

namespace mf {

inline constexpr float kPoison = -12345.0f;
inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr size_t kColumnShapes[] = {1, 15, 16, 17, 31, 33, 64, 65, 127, 128, 129, 300, 512};
inline constexpr size_t kTokenShapes[] = {1, 3, 127};

inline size_t Padded(size_t columns) { return (columns + 15) / 16 * 16; }

/// Floats at an odd address, as payload frames have them.
class Misaligned {
 public:
  explicit Misaligned(const std::vector<float>& values) : bytes_(values.size() * 4 + 1) {
    if (!values.empty()) std::memcpy(bytes_.data() + 1, values.data(), values.size() * 4);
  }
  const void* data() const { return bytes_.data() + 1; }

 private:
  std::vector<unsigned char> bytes_;
};

inline std::vector<float> Uniform(std::mt19937& rng, size_t count, float size = 1) {
  std::uniform_real_distribution<float> unit(-size, size);
  std::vector<float> out(count);
  for (float& x : out) x = unit(rng);
  return out;
}

template <class T>
void ExpectSameBits(const std::vector<T>& a, const std::vector<T>& b, const char* what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(std::memcmp(&a[i], &b[i], sizeof(T)), 0)
        << what << " differs at " << i << ": " << +a[i] << " and " << +b[i];
  }
}

/// Runs `compute` on every instruction set that was compiled and that this CPU has; all results
/// must have the bits of the first.
template <class T>
void ExpectSameOnAllTargets(const std::function<std::vector<T>()>& compute) {
  hwy::SetSupportedTargetsForTest(0);
  const std::vector<int64_t> targets = hwy::SupportedAndGeneratedTargets();
  ASSERT_FALSE(targets.empty());
  std::vector<T> expected;
  for (const int64_t target : targets) {
    hwy::SetSupportedTargetsForTest(target);
    const std::vector<T> got = compute();
    hwy::SetSupportedTargetsForTest(0);
    if (target == targets.front()) {
      expected = got;
    } else {
      ExpectSameBits(expected, got, hwy::TargetName(target));
    }
  }
}

}  // namespace mf
