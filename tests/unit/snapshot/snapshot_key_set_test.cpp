// Goal: a key set is a set: dense ids, ids anywhere in 64 bits and both, in rising order or not.
#include "pserver/snapshot/snapshot_key_set.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <utility>

namespace mf {
namespace {

uint64_t Draw(std::mt19937_64& random, int kind) {
  switch (kind) {
    case 0:
      return random() % 500;  // dense
    case 1:
      return random() | uint64_t{1} << 63;
    default:
      return random() >> random() % 64;  // of any size: also around 2^48
  }
}

TEST(SnapshotKeySet, IsASet) {
  for (int kind = 0; kind < 3; ++kind) {
    std::mt19937_64 random(static_cast<uint64_t>(kind) + 1);
    SnapshotKeySet keys;
    std::set<std::pair<uint32_t, uint64_t>> model;
    std::vector<std::pair<uint32_t, uint64_t>> asked;
    for (int round = 0; round < 20; ++round) {
      // What an increment adds: rising, in every second round in any order.
      SnapshotKeySet added;
      std::vector<std::pair<uint32_t, uint64_t>> news;
      for (int i = 0; i < 200; ++i) {
        const std::pair<uint32_t, uint64_t> key(random() % 3, Draw(random, kind));
        asked.push_back(key);
        asked.emplace_back(key.first, key.second + 1);
        if (!model.contains(key)) news.push_back(key);
      }
      if (round % 2 == 0) std::sort(news.begin(), news.end());
      for (const auto& [space, id] : news) {
        ASSERT_TRUE(added.Add(space, id, 10 + space));
        ASSERT_TRUE(added.Add(space, id, 10 + space)) << "again is nothing";
        ASSERT_FALSE(added.Add(space, id, 99));
        model.emplace(space, id);
      }
      // And takes away: of what was there before.
      SnapshotKeySet removed;
      for (const auto& [space, id] : asked) {
        if (random() % 3 != 0 || !keys.Has(space, id) || !model.contains({space, id})) continue;
        ASSERT_TRUE(removed.Add(space, id, keys.EntryBytes(space)));
        model.erase({space, id});
      }
      uint64_t entries = 0;
      for (const SpaceCount& count : keys.CountsWith(added, removed)) {
        const auto first = model.lower_bound({count.space, 0});
        const auto last = model.lower_bound({count.space + 1, 0});
        ASSERT_EQ(count.entries, static_cast<uint64_t>(std::distance(first, last)));
        ASSERT_EQ(count.bytes, count.entries * (10 + count.space));
        entries += count.entries;
      }
      ASSERT_EQ(entries, model.size());
      keys.Merge(std::move(added));
      keys.Subtract(removed);
      for (const auto& [space, id] : asked) {
        ASSERT_EQ(keys.Has(space, id), model.contains({space, id})) << space << " " << id;
      }
      ASSERT_EQ(keys.EntriesBelow(3), model.size());
      ASSERT_TRUE(keys.Fits(0, 10) && !keys.Fits(0, 11) && keys.Fits(7, 11));
    }
    EXPECT_FALSE(keys.Has(5, 1));
    keys.Clear();
    EXPECT_EQ(keys.EntriesBelow(100), 0u);
  }
}

}  // namespace
}  // namespace mf
