// Goal: bytes come back, and nothing but base64 is taken for it.
#include "worker/config/base64.h"

#include <gtest/gtest.h>

#include <random>

namespace mf {
namespace {

TEST(Base64, BytesComeBack) {
  EXPECT_EQ(ToBase64("foob"), "Zm9vYg==");
  std::mt19937 draw(1);
  for (size_t size = 0; size < 100; ++size) {
    std::string bytes(size, '\0');
    for (char& c : bytes) c = static_cast<char>(draw());
    EXPECT_EQ(FromBase64(ToBase64(bytes)), bytes);
  }
}

TEST(Base64, NothingElseIsTaken) {
  for (const std::string text :
       {"Zg", "Zg=", "Z===", "Zm9v\n", "Zm9v Zm9v", "?m9v", "====", "Zm9vZ"}) {
    EXPECT_EQ(FromBase64(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace mf
