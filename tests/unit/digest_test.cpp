// Goal: the digest is SHA-256, however its input is cut, and metrics read back what was added.
#include "common/digest.h"

#include <gtest/gtest.h>

#include <fstream>

#include "common/metrics.h"

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

TEST(Metrics, CountersReadBack) {
  Metrics metrics;
  metrics.AddWireBytes("forward", Direction::kSent, 100);
  metrics.AddWireBytes("forward", Direction::kSent, 23);
  metrics.AddWireBytes("forward", Direction::kReceived, 5);
  metrics.AddRejected("malformed");
  metrics.ObserveRequest("forward", 0.003);
  EXPECT_EQ(metrics.WireBytes("forward", Direction::kSent), 123u);
  EXPECT_EQ(metrics.WireBytes("forward", Direction::kReceived), 5u);
  EXPECT_EQ(metrics.WireBytes("pull", Direction::kSent), 0u);
  EXPECT_EQ(metrics.Rejected("malformed"), 1u);
  EXPECT_EQ(metrics.Rejected("other"), 0u);
  const std::string text = metrics.Text();
  EXPECT_NE(text.find("mf_wire_bytes_total{direction=\"sent\",op=\"forward\"} 123"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("mf_request_seconds_count{op=\"forward\"} 1"), std::string::npos) << text;
}

}  // namespace
}  // namespace mf
