// Goal: workers that leave, are stopped or come back late keep nothing from the others, and nothing
// from being saved.
#include <gtest/gtest.h>

#include "tests/unit/coordinator/coordinator_desk.h"

namespace mf {
namespace {

// Goal: what a worker that ends holds is anybody's at once, and it gets nothing more.
TEST(CoordinatorEnding, WhatALeavingWorkerHoldsIsAnybodys) {
  Desk desk(SmallRun());
  desk.Recover();
  const Grant held = desk.AskFor(Work::kMicroBatch, 1);
  EXPECT_EQ(desk.coordinator.finished_step(), (FinishedStep{held.epoch, 0}));
  desk.coordinator.Leave(1, desk.now);
  const Grant again = desk.AskFor(Work::kMicroBatch, 2);
  EXPECT_EQ(again.micro_batch, held.micro_batch);
  EXPECT_EQ(desk.coordinator.Renew(held.lease, desk.now).code(), Code::kStale);
  desk.AskFor(Work::kStopped, 1);
  // The same for the end of a step.
  desk.AllDone();
  desk.AskFor(Work::kCommit, 2);
  EXPECT_FALSE(desk.TryAsk(3).has_value());
  desk.coordinator.Leave(2, desk.now);
  ASSERT_FALSE(desk.TryAsk(4).has_value()) << "session 3 asked before";
  EXPECT_EQ(desk.End(), Code::kOk);
  EXPECT_EQ(desk.coordinator.finished_step().step, 1u);
}

// Goal: a stop ends those that are there, also while they wait, and nobody who comes later.
TEST(CoordinatorEnding, AStopEndsThoseThatAreThere) {
  Desk desk(SmallRun());
  desk.Recover();
  for (uint32_t i = 0; i < 4; ++i) desk.AskFor(Work::kMicroBatch, 1);
  EXPECT_FALSE(desk.TryAsk(2).has_value());
  Coordinator::Grants grants = desk.coordinator.Stop({1, 2}, desk.now);
  ASSERT_EQ(grants.size(), 1u) << "who waits is told";
  EXPECT_EQ(static_cast<int>(grants[0].work), static_cast<int>(Work::kStopped));
  // What is leased may be handed in.
  EXPECT_EQ(desk.Done(0), Code::kOk);
  desk.AskFor(Work::kStopped, 1);
  EXPECT_FALSE(desk.TryAsk(3).has_value()) << "waits for what session 1 holds";
  desk.AllDone();
  ASSERT_FALSE(desk.late.empty());
  EXPECT_EQ(static_cast<int>(desk.late.back().work), static_cast<int>(Work::kCommit));
}

// Goal: a server that is started again around a stop comes back into the run all the same, by
// whoever is left: else its state could not be saved.
TEST(CoordinatorEnding, WhoIsStoppedRecoversServersFirst) {
  Desk desk(SmallRun());
  desk.Recover();
  desk.coordinator.Stop({1, 2}, desk.now);
  desk.StartRecovery();
  const Grant held = desk.AskFor(Work::kRecover, 1);
  EXPECT_FALSE(desk.TryAsk(2).has_value()) << "session 1 may not come to an end with it";
  // Session 1 is gone.
  const Coordinator::Grants grants = desk.coordinator.Leave(1, desk.now);
  ASSERT_EQ(grants.size(), 1u);
  EXPECT_EQ(static_cast<int>(grants[0].work), static_cast<int>(Work::kRecover));
  desk.AskFor(Work::kStopped, 1);
  EXPECT_EQ(desk.Recovered(held.epoch, 0), Code::kWrongEpoch);
  EXPECT_EQ(desk.Recovered(grants[0].epoch, 0), Code::kOk);
  desk.AskFor(Work::kStopped, 2);
}

// Goal: the state that is there is that of the last finished step, in every phase.
TEST(CoordinatorEnding, KnowsTheLastFinishedStep) {
  RunRules rules = SmallRun();
  rules.eval_every = 1;
  Desk desk(rules);
  EXPECT_EQ(desk.coordinator.finished_step(), FinishedStep{});
  desk.Recover(3);
  EXPECT_EQ(desk.coordinator.finished_step().step, 3u);
  desk.AllDone();
  EXPECT_EQ(desk.coordinator.finished_step().step, 3u) << "nobody has ended step 4";
  desk.AskFor(Work::kCommit);
  EXPECT_EQ(desk.End(), Code::kOk);
  EXPECT_EQ(desk.coordinator.finished_step().step, 4u) << "it is evaluated";
  desk.StartRecovery();
  EXPECT_EQ(desk.coordinator.finished_step(), FinishedStep{});
}

}  // namespace
}  // namespace mf
