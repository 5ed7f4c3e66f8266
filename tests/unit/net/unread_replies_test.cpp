// Goal: memory for replies that nobody reads is bounded, one that never reads does not take the
// room of others, and what was read is free again (unread_replies.h).
#include "common/net/unread_replies.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace mf {
namespace {

Message MessageOf(size_t bytes) { return {Frame(Buffer(bytes))}; }

TEST(UnreadReplies, AreBoundedAndShared) {
  UnreadReplies unread(100'000);
  std::vector<Message> kept;
  const auto fill = [&](const std::string& peer) {
    size_t bytes = 0;
    for (;;) {
      Message sent = unread.Count(peer, MessageOf(1000));
      if (sent.empty()) return bytes;
      bytes += 1000;
      kept.push_back(std::move(sent));
    }
  };
  EXPECT_EQ(fill("a"), 50'000u);
  EXPECT_EQ(fill("b"), 25'000u);
  EXPECT_EQ(fill("b"), 0u);
  EXPECT_FALSE(unread.HasRoomFor("a"));
  EXPECT_FALSE(unread.HasRoomFor("b"));
  EXPECT_TRUE(unread.HasRoomFor("c"));
  EXPECT_FALSE(unread.Count("c", MessageOf(20'000)).empty());
  EXPECT_EQ(unread.bytes(), 75'000u);  // that one was let go at once
  // Whatever its size, where nothing waits.
  Message large = unread.Count("d", MessageOf(1'000'000));
  EXPECT_EQ(unread.bytes(), 1'075'000u);
  EXPECT_TRUE(unread.Count("d", MessageOf(1000)).empty());
  large.clear();
  kept.clear();
  EXPECT_EQ(unread.bytes(), 0u);
  EXPECT_TRUE(unread.HasRoomFor("a"));
  EXPECT_EQ(fill("a"), 50'000u);
}

TEST(UnreadReplies, TheBytesAreTheSame) {
  UnreadReplies unread(1000);
  const Message message = {Frame(Buffer(10)), Frame(Buffer(5000)), Frame()};
  const Message counted = unread.Count("a", message);
  ASSERT_EQ(counted.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(counted[i].data(), message[i].data());
    EXPECT_EQ(counted[i].size(), message[i].size());
  }
  EXPECT_EQ(unread.bytes(), 5000u);
}

TEST(UnreadReplies, ForgetsWhoHasReadAll) {
  UnreadReplies unread(1'000'000);
  for (int i = 0; i < 100'000; ++i) {
    ASSERT_FALSE(unread.Count("peer" + std::to_string(i), MessageOf(1000)).empty());
  }
  EXPECT_EQ(unread.bytes(), 0u);
}

}  // namespace
}  // namespace mf
