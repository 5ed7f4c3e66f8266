// Goal: what to keep, what to delete and where to go back to, as functions of all servers' answers:
// named cases, and properties over random answers.
#include "common/client/snapshot_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

namespace mf {
namespace {

using Steps = std::vector<uint64_t>;

TEST(SnapshotPlan, NewestCommonStep) {
  EXPECT_EQ(NewestCommonStep({{{}, 0}}), 0u);
  EXPECT_EQ(NewestCommonStep({{{3, 5}, 0}}), 5u);
  EXPECT_EQ(NewestCommonStep({{{3, 5}, 0}, {{3}, 5}}), 3u);
  EXPECT_EQ(NewestCommonStep({{{3, 5}, 0}, {{4}, 0}}), 0u);
}

TEST(SnapshotPlan, TakesWhenDueAndNobodyIsBusy) {
  using enum SnapshotDue;
  const std::vector<SnapshotState> idle = {{{3}, 0}, {{3}, 0}}, busy = {{{3}, 0}, {{3}, 6}};
  EXPECT_FALSE(PlanSnapshots(idle, kNo, 2).take);
  EXPECT_TRUE(PlanSnapshots(idle, kWhenIdle, 2).take);
  EXPECT_FALSE(PlanSnapshots(busy, kWhenIdle, 2).take);
  EXPECT_TRUE(PlanSnapshots(busy, kNow, 2).take);
}

TEST(SnapshotPlan, KeepsTheNewestCommonSteps) {
  const std::vector<SnapshotState> two = {{{10, 20, 30}, 0}, {{10, 20, 30}, 40}};
  EXPECT_EQ(PlanSnapshots(two, SnapshotDue::kNo, 2).discard, Steps({10}));
  EXPECT_EQ(PlanSnapshots(two, SnapshotDue::kNo, 1).discard, Steps({10, 20}));
  EXPECT_EQ(PlanSnapshots(two, SnapshotDue::kNo, 9).discard, Steps());
  EXPECT_EQ(PlanSnapshots(two, SnapshotDue::kNo, 0).discard, Steps({10, 20}));  // one at least
}

// A disk that is full for long costs nothing but its own snapshots: the last common step stays, the
// others do not pile up what can never be common, and when it is well again the next is common.
TEST(SnapshotPlan, ASickDisk) {
  EXPECT_EQ(PlanSnapshots({{{10, 20}, 0}, {{10}, 20}}, SnapshotDue::kNo, 2).discard, Steps());
  EXPECT_EQ(PlanSnapshots({{{10, 20}, 0}, {{10}, 0}}, SnapshotDue::kNo, 2).discard, Steps({20}));
  EXPECT_EQ(PlanSnapshots({{{10, 30}, 0}, {{10}, 30}}, SnapshotDue::kNo, 1).discard, Steps());
  EXPECT_EQ(PlanSnapshots({{{10, 30}, 0}, {{10, 30}, 0}}, SnapshotDue::kNo, 1).discard,
            Steps({10}));
}

TEST(SnapshotPlan, Properties) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 20'000; ++round) {
    std::vector<SnapshotState> servers(1 + random() % 4);
    for (SnapshotState& server : servers) {
      for (uint64_t step = 1; step <= 8; ++step) {
        if (random() % 3 != 0) server.published.push_back(step);
      }
      if (random() % 2 == 0) server.writing = 1 + random() % 10;
    }
    const uint64_t keep = 1 + random() % 3, newest = NewestCommonStep(servers);
    const Steps discard = PlanSnapshots(servers, SnapshotDue::kNo, keep).discard;
    EXPECT_EQ(std::count(discard.begin(), discard.end(), newest), 0) << "the newest common step";
    std::vector<SnapshotState> after = servers;
    std::set<uint64_t> left;
    for (SnapshotState& server : after) {
      std::erase_if(server.published, [&](uint64_t step) {
        return std::find(discard.begin(), discard.end(), step) != discard.end();
      });
      left.insert(server.published.begin(), server.published.end());
    }
    EXPECT_EQ(NewestCommonStep(after), newest);
    EXPECT_TRUE(PlanSnapshots(after, SnapshotDue::kNo, keep).discard.empty()) << "said at once";
    size_t common = 0;
    for (const uint64_t step : left) {
      size_t have = 0, will_have = 0;
      for (const SnapshotState& server : after) {
        const bool has = std::binary_search(server.published.begin(), server.published.end(), step);
        have += has ? 1 : 0;
        will_have += has || server.writing == step ? 1 : 0;
      }
      EXPECT_EQ(will_have, after.size()) << "step " << step << " can never be common";
      common += have == after.size() ? 1 : 0;
    }
    EXPECT_LE(common, keep);
    EXPECT_LE(left.size(), common + servers.size()) << "what is on disk is bounded";
  }
}

TEST(RecoveryPlan, GoesBackToTheNewestCommonStep) {
  const RecoveryPlan plan = PlanRecovery({{{7, 0}, {{10, 20}, 0}, 10}, {{}, {{10}, 20}, 0}}, 8);
  EXPECT_EQ(plan.action, RecoveryPlan::Action::kRollback);
  EXPECT_EQ(plan.step, 10u);
  EXPECT_EQ(plan.epoch_seen, 7u);
}

TEST(RecoveryPlan, NeedsAnEpochAboveAll) {
  const RecoveryPlan plan = PlanRecovery({{{7, 0}, {}, 0}, {{9, 0}, {}, 0}}, 9);
  EXPECT_EQ(plan.action, RecoveryPlan::Action::kHigherEpoch);
  EXPECT_EQ(plan.epoch_seen, 9u);
}

// A server on a wrong or old folder, or one whose snapshots are all damaged, must not cost what all
// others have.
TEST(RecoveryPlan, DoesNotBeginAnewWhereThereWasACommonStep) {
  const ServerState full = {{3, 0}, {{10, 20}, 0}, 10};
  for (const ServerState& other : {ServerState{{}, {}, 0}, ServerState{{3, 0}, {{5}, 0}, 5}}) {
    const RecoveryPlan plan = PlanRecovery({full, other}, 4);
    EXPECT_EQ(plan.action, RecoveryPlan::Action::kRefuse);
    EXPECT_NE(plan.message.find("server 1 has"), std::string::npos) << plan.message;
    EXPECT_NE(plan.message.find("step 10"), std::string::npos) << plan.message;
  }
  // One that died before the first common snapshot, and a start from nothing, go on.
  EXPECT_EQ(PlanRecovery({{{3, 0}, {{10}, 0}, 0}, {{}, {}, 0}}, 4).action,
            RecoveryPlan::Action::kRollback);
  EXPECT_EQ(PlanRecovery({{{}, {}, 0}, {{}, {}, 0}}, 4).action, RecoveryPlan::Action::kRollback);
}

// A server that was told to end has published its last step, 25; the others hold it still.
TEST(StepToSave, IsWhatAllCanStillPublish) {
  const ServerState ended = {{}, {{10, 20, 25}, 0}, 20};
  const ServerState holds = {{3, 25}, {{10, 20}, 0}, 20};
  const ServerState writes = {{3, 26}, {{10, 20}, 25}, 20};
  const ServerState has = {{3, 30}, {{10, 20, 25}, 0}, 20};
  EXPECT_EQ(StepToSave({ended, holds}), 25u);
  EXPECT_EQ(StepToSave({holds, writes, ended, has}), 25u);
  EXPECT_EQ(StepToSave({ended, has}), 0u) << "it is common already";
  EXPECT_EQ(StepToSave({holds, holds}), 0u) << "nobody has it: a rollback goes back anyway";
  const ServerState further = {{3, 26}, {{10, 20}, 0}, 20};
  EXPECT_EQ(StepToSave({ended, holds, further}), 0u);
  // One that was restarted and not recovered yet holds nothing, whatever its number says.
  EXPECT_EQ(StepToSave({ended, {{0, 25}, {{10, 20}, 0}, 20}}), 0u);
  // Of two candidates the newer one that all can have.
  EXPECT_EQ(StepToSave({{{}, {{10, 20, 22, 25}, 0}, 0}, {{3, 22}, {{10, 20}, 0}, 0}}), 22u);
}

}  // namespace
}  // namespace mf
