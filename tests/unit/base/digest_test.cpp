// Goal: the digest is SHA-256, however its input is cut.
#include "common/base/digest.h"

#include <gtest/gtest.h>

#include <fstream>

namespace mf {
namespace {

constexpr char kAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

TEST(Digest, KnownValues) {
  EXPECT_EQ(Sha256Hex("abc"), kAbc);
  EXPECT_EQ(Sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST(Digest, CutsDoNotMatter) {
  Sha256 hash;
  hash.Update("a");
  EXPECT_EQ(hash.Hex(), Sha256Hex("a"));
  hash.Update("");
  hash.Update("bc");
  EXPECT_EQ(hash.Hex(), kAbc);
  EXPECT_EQ(hash.Hex(), kAbc);
}

TEST(Digest, OfAFile) {
  const std::string path = testing::TempDir() + "digest_test";
  std::ofstream(path) << "abc";
  EXPECT_EQ(Sha256HexOfFile(path), kAbc);
  EXPECT_EQ(Sha256HexOfFile(path + ".none"), "");
}

}  // namespace
}  // namespace mf
