// Goal: who asks for little is served as if nobody else were there, whatever others send; memory
// for what waits is bounded, and whoever has little waiting finds room (inbox.h).
#include "pserver/shard/inbox.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <vector>

namespace mf {
namespace {

Inbox::Item ItemOf(const std::string& peer, uint64_t bytes, uint64_t id = 0, double at = 0) {
  return {.peer = peer, .request = {.id = id, .body = StatusRequest{}}, .bytes = bytes, .at = at};
}

bool Put(Inbox& inbox, const std::string& peer, uint64_t bytes, uint64_t id = 0, double at = 0) {
  Inbox::Item item = ItemOf(peer, bytes, id, at);
  return inbox.Put(item);
}

TEST(Inbox, KeepsTheOrderOfAPeer) {
  Inbox inbox(1000, 100);
  for (uint64_t id = 1; id <= 5; ++id) {
    EXPECT_TRUE(Put(inbox, "a", 1, id));
    EXPECT_TRUE(Put(inbox, "b", 1, id));
  }
  std::map<std::string, uint64_t> last;
  while (const auto item = inbox.Next()) {
    EXPECT_EQ(item->request.id, ++last[item->peer]);
    inbox.Served(1);
  }
  EXPECT_EQ(last["a"], 5u);
  EXPECT_EQ(last["b"], 5u);
  EXPECT_EQ(inbox.bytes(), 0u);
}

TEST(Inbox, ServesAlikeBySeconds) {
  Inbox inbox(1'000'000, 100'000);
  // A request of "long" takes ten times as long. Both have four waiting, always.
  for (int i = 0; i < 4; ++i) {
    Put(inbox, "long", 1);
    Put(inbox, "short", 1);
  }
  std::map<std::string, double> seconds;
  for (int i = 0; i < 550; ++i) {
    const auto item = inbox.Next();
    const double took = item->peer == "long" ? 10 : 1;
    seconds[item->peer] += took;
    Put(inbox, item->peer, 1);
    inbox.Served(took);
  }
  EXPECT_NEAR(seconds["long"], seconds["short"], 10);
}

// One that comes, waits for its answer and comes again is never kept waiting for more than the
// request that is being worked on, however long others have waited.
TEST(Inbox, AFloodDoesNotHoldUpTheRest) {
  Inbox inbox(1'000'000, 100'000);
  double now = 0;
  for (int i = 0; i < 10'000; ++i) Put(inbox, "flood", 1);
  double worst = 0, asked = 0;
  bool waits = false;
  int answered = 0;
  for (int i = 0; i < 5000; ++i) {
    Put(inbox, "flood", 1);
    if (!waits && i % 3 == 0) {  // it uses less than half of the server
      Put(inbox, "worker", 1, 0, now);
      waits = true;
      asked = now;
    }
    const auto item = inbox.Next();
    now += 1;
    inbox.Served(1);
    if (item->peer != "worker") continue;
    waits = false;
    ++answered;
    worst = std::max(worst, now - asked);
  }
  EXPECT_GT(answered, 1500);
  EXPECT_LE(worst, 2);
}

// One with 64 requests in flight costs a worker that needs most of the server, with 6 in flight, a
// tenth of its speed at most, and is not forgotten.
TEST(Inbox, WhoAsksForMuchAtOnceHasASmallShare) {
  Inbox inbox(1'000'000, 100'000);
  const double flood_takes = 0.1, worker_takes = 1, thinks = 2;
  for (int i = 0; i < 64; ++i) Put(inbox, "flood", 1);
  double now = 0, thinks_until = 0;
  int open = 0, rounds = 0, floods = 0;
  while (rounds < 200) {
    if (open == 0 && now >= thinks_until) {
      for (; open < 6; ++open) Put(inbox, "worker", 1, 0, now);
    }
    const auto item = inbox.Next();
    const bool of_flood = item->peer == "flood";
    const double took = of_flood ? flood_takes : worker_takes;
    now += took;
    if (of_flood) {
      ++floods;
      Put(inbox, "flood", 1, 0, now);
    } else if (--open == 0) {
      ++rounds;
      thinks_until = now + thinks;
    }
    inbox.Served(took);
  }
  const double alone = rounds * (6 * worker_takes + thinks);
  EXPECT_LT(alone, now);
  EXPECT_GT(alone / now, 0.9);
  EXPECT_GT(floods, rounds * 20);  // all that is left
}

// Idle time is not saved up: who comes back is not served alone until it has caught up.
TEST(Inbox, WhoWasIdleHasSavedNothingUp) {
  Inbox inbox(1'000'000, 100'000);
  Put(inbox, "late", 1);
  inbox.Next();
  inbox.Served(1);
  for (int i = 0; i < 200; ++i) Put(inbox, "early", 1);
  for (int i = 0; i < 100; ++i) {
    inbox.Next();
    inbox.Served(1);
  }
  for (int i = 0; i < 100; ++i) Put(inbox, "late", 1);
  int early = 0;
  for (int i = 0; i < 20; ++i) {
    early += inbox.Next()->peer == "early";
    inbox.Served(1);
  }
  EXPECT_NEAR(early, 10, 1);
}

TEST(Inbox, RoomIsBoundedAndShared) {
  std::mt19937 random(3);
  for (int trial = 0; trial < 200; ++trial) {
    const uint64_t most = 1000 + random() % 100'000;
    const int floods = 1 + static_cast<int>(random() % 5);
    const uint64_t largest = most / 100;
    Inbox inbox(most, 1'000'000);
    for (int i = 0; i < 20'000; ++i) {
      Put(inbox, "flood" + std::to_string(i % floods), 1 + random() % largest);
    }
    EXPECT_LE(inbox.bytes(), most);
    // n of them leave 1 / (n + 1) free, but for a last request of each.
    const auto left = static_cast<double>(most - inbox.bytes());
    EXPECT_GE(left + floods * static_cast<double>(largest),
              static_cast<double>(most) / (floods + 1));
    EXPECT_TRUE(Put(inbox, "worker", largest));
    EXPECT_TRUE(Put(inbox, "worker", largest));
  }
}

TEST(Inbox, NothingIsTooLargeForAnEmptyPlace) {
  Inbox inbox(100, 10);
  EXPECT_TRUE(Put(inbox, "a", 1000));
  EXPECT_FALSE(Put(inbox, "b", 1));  // but it is full then
  EXPECT_FALSE(Put(inbox, "a", 1));
  EXPECT_EQ(inbox.Next()->bytes, 1000u);
  inbox.Served(1);
  EXPECT_TRUE(Put(inbox, "b", 1));
  // Requests are counted, too, however small.
  for (int i = 0; i < 20; ++i) Put(inbox, "b", 0);
  EXPECT_LE(inbox.items(), 5u);
}

TEST(Inbox, ForgetsWhoIsGone) {
  Inbox inbox(1'000'000, 100'000);
  for (int i = 0; i < 100'000; ++i) {
    ASSERT_TRUE(Put(inbox, "peer" + std::to_string(i), 1));
    ASSERT_TRUE(inbox.Next().has_value());
    inbox.Served(1);
    ASSERT_LE(inbox.peers(), 2000u);
  }
}

}  // namespace
}  // namespace mf
