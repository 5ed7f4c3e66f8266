// Goal: a shard's header says what was put into it, and nothing but a whole header of a file of the
// right size passes for one.
#include "worker/data/token_shard.h"

#include <gtest/gtest.h>

#include <string>

#include "common/base/digest.h"

namespace mf {
namespace {

const ShardHeader kHeader{.id_bytes = 4,
                          .vocabulary = 100'000,
                          .ids = 5,
                          .tokenizer = Sha256Hex("a tokenizer"),
                          .digest = Sha256Hex("ids"),
                          .end_of_text = 7,
                          .shard = 3,
                          .shards = 12};

std::string Text(const ShardHeader& header) {
  const auto head = header.Encode();
  return {head.data(), head.size()};
}

TEST(TokenShard, ComesBack) {
  const auto back = ShardHeader::Decode(Text(kHeader), ShardHeader::kBytes + 20);
  ASSERT_TRUE(back.ok() && back.value().has_value());
  EXPECT_EQ(*back.value(), kHeader);
  ShardHeader bytes = kHeader;
  bytes.tokenizer.clear();
  bytes.end_of_text.reset();
  EXPECT_EQ(*ShardHeader::Decode(Text(bytes), ShardHeader::kBytes + 20).value(), bytes);
}

TEST(TokenShard, OtherFilesAreNone) {
  for (const std::string text : {"", "MFTOKEN", "some text that is longer than a header has"}) {
    const auto none = ShardHeader::Decode(text, text.size());
    ASSERT_TRUE(none.ok());
    EXPECT_FALSE(none.value().has_value());
  }
}

TEST(TokenShard, WhatIsCutOrDamagedIsRefused) {
  const std::string text = Text(kHeader);
  const auto refused = [](std::string_view head, uint64_t bytes, const std::string& why) {
    const auto header = ShardHeader::Decode(head, bytes);
    ASSERT_FALSE(header.ok()) << why;
    EXPECT_NE(header.status().message().find(why), std::string::npos) << header.status().message();
  };
  refused(text.substr(0, 100), 100, "header is cut");
  refused(text, ShardHeader::kBytes + 19, "19 bytes follow");
  refused(text, ShardHeader::kBytes, "0 bytes follow");
  std::string other = text;
  other[8] = 2;
  refused(other, ShardHeader::kBytes + 20, "another version (format 2");
  other = text;
  other[100] = 12;
  refused(other, ShardHeader::kBytes + 20, "header is damaged");
  other = text;
  other[12] = 3;
  refused(other, ShardHeader::kBytes + 20, "header is damaged");
}

}  // namespace
}  // namespace mf
