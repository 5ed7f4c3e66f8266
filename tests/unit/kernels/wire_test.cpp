// Goal: what goes over the wire in vectors is what the definitions say of one number: bf16 both
// ways, and dots with their exponents, on every instruction set of this CPU and at any alignment.
#include "common/kernels/wire.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "common/base/bf16.h"
#include "common/kernels/pairs.h"
#include "tests/support/kernel_checks.h"

namespace mf {
namespace {

/// Copies `values` to an address that is aligned to nothing.
template <class T>
class Unaligned {
 public:
  explicit Unaligned(const std::vector<T>& values) : bytes_(values.size() * sizeof(T) + 1) {
    if (!values.empty()) std::memcpy(bytes_.data() + 1, values.data(), values.size() * sizeof(T));
  }
  const void* data() const { return bytes_.data() + 1; }

 private:
  std::vector<std::byte> bytes_;
};

constexpr size_t kCounts[] = {0, 1, 7, 8, 15, 16, 17, 31, 33, 1000};

/// Every upper half with the lower halves that decide how it is rounded.
std::vector<float> EveryKindOfFloat() {
  std::vector<float> floats;
  for (uint32_t upper = 0; upper < 1 << 16; ++upper) {
    for (const uint32_t lower : {0x0000u, 0x0001u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu}) {
      floats.push_back(std::bit_cast<float>(upper << 16 | lower));
    }
  }
  return floats;
}

TEST(WireTest, Bf16IsPackedAsDefined) {
  const std::vector<float> floats = EveryKindOfFloat();
  std::vector<uint16_t> due;
  for (const float value : floats) due.push_back(ToBf16(value));
  ExpectSameOnAllTargets<uint16_t>([&] {
    std::vector<uint16_t> packed(floats.size());
    PackBf16(packed.data(), floats.data(), floats.size());
    ExpectSameBits(due, packed, "packed");
    return packed;
  });
  for (const size_t count : kCounts) {
    std::vector<uint16_t> packed(count + 1, 0xABCD);
    PackBf16(packed.data(), floats.data() + 99'999, count);
    for (size_t i = 0; i < count; ++i) ASSERT_EQ(packed[i], due[99'999 + i]);
    EXPECT_EQ(packed[count], 0xABCD);  // nothing behind the end
  }
}

TEST(WireTest, Bf16IsUnpackedAsDefined) {
  std::vector<uint16_t> narrow;
  for (uint32_t bits = 0; bits < 1 << 16; ++bits) narrow.push_back(static_cast<uint16_t>(bits));
  const Unaligned<uint16_t> frame(narrow);
  ExpectSameOnAllTargets<uint32_t>([&] {
    std::vector<float> wide(narrow.size());
    UnpackBf16(wide.data(), frame.data(), narrow.size());
    std::vector<uint32_t> bits;
    for (const float value : wide) bits.push_back(std::bit_cast<uint32_t>(value));
    for (size_t i = 0; i < bits.size(); ++i) EXPECT_EQ(bits[i], uint32_t{narrow[i]} << 16);
    return bits;
  });
  for (const size_t count : kCounts) {
    std::vector<float> wide(count + 1, 5);
    UnpackBf16(wide.data(),
               Unaligned<uint16_t>({narrow.begin(), narrow.begin() + static_cast<ptrdiff_t>(count)})
                   .data(),
               count);
    EXPECT_EQ(wide[count], 5);
  }
}

/// Dots at the ends of their range, those whose values are subnormal floats, overflow, or round to
/// even, and any others.
std::vector<int64_t> Dots(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  const int64_t ends[] = {0,
                          1,
                          -1,
                          kDotNotFinite,
                          INT64_MAX,
                          -INT64_MAX,
                          (1ll << 53) + 1,
                          (1ll << 24) + 1,
                          (3ll << 23) + 1,
                          -(1ll << 62),
                          0x1FFFFFF80ll,
                          0x1FFFFFF7Fll};
  std::vector<int64_t> dots;
  for (size_t i = 0; i < count; ++i) {
    const int64_t any = static_cast<int64_t>(random()) >> (random() % 63);
    dots.push_back(i % 3 == 0 ? ends[random() % std::size(ends)] : any);
  }
  return dots;
}

// Goal: one multiplication by a power of two gives the bits that ldexp gives, for every exponent
// that a byte can hold, however many servers added to a dot.
TEST(WireTest, DotsHaveTheBitsOfTheirDefinition) {
  for (const size_t servers : {1, 2, 5}) {
    for (const size_t tokens : {1, 7, 8, 9, 64, 256}) {
      constexpr size_t kPairs = 12;
      std::vector<std::vector<int64_t>> dots;
      std::vector<Unaligned<int64_t>> frames;
      std::vector<const void*> parts;
      for (size_t s = 0; s < servers; ++s) {
        dots.push_back(Dots(kPairs * tokens, 10 * tokens + s));
        // Sums of parts stay in range, as DESIGN 2.3 promises.
        if (servers > 1) {
          for (int64_t& dot : dots.back()) dot = dot == kDotNotFinite ? dot : dot / 8;
        }
        frames.emplace_back(dots.back());
      }
      for (const auto& frame : frames) parts.push_back(frame.data());
      std::vector<int8_t> exponents;
      for (size_t t = 0; t < tokens; ++t) {
        exponents.push_back(static_cast<int8_t>(tokens == 256 ? static_cast<int>(t) - 128
                                                              : static_cast<int>(t * 31) - 80));
      }
      std::vector<float> due;
      for (size_t i = 0; i < kPairs * tokens; ++i) {
        int64_t sum = dots[0][i];
        for (size_t s = 1; s < servers; ++s) sum = AddDots(sum, dots[s][i]);
        due.push_back(DotValue(sum, exponents[i % tokens]));
      }
      ExpectSameOnAllTargets<float>([&] {
        std::vector<float> values(kPairs * tokens);
        DotValues(parts, kPairs, tokens, exponents.data(), values.data());
        ExpectSameBits(due, values, "dots");
        return values;
      });
    }
  }
}

}  // namespace
}  // namespace mf
