// Goal: the work coordinator gives every micro-batch of every step to be counted exactly once, in
// order, whoever dies, comes late or repeats himself (DESIGN 2.5-2.7).
#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "common/run/schedule.h"
#include "tests/unit/coordinator/coordinator_desk.h"

namespace mf {
namespace {

// Goal: nothing but recovery is leased before a run has been recovered, and to one session only.
TEST(CoordinatorRecovery, StartsWithRecovery) {
  Desk desk(SmallRun());
  const Grant grant = desk.AskFor(Work::kRecover);
  EXPECT_EQ(grant.epoch, Epoch(1, 1));
  EXPECT_EQ(desk.Done(grant.epoch, 0, 0), Code::kStale);
  EXPECT_FALSE(desk.TryAsk(2).has_value());
  EXPECT_EQ(desk.Recovered(grant.epoch, 0), Code::kOk);
  ASSERT_EQ(desk.late.size(), 1u);  // the waiting session is served at once
  EXPECT_EQ(desk.late[0].work, Work::kMicroBatch);
  EXPECT_EQ(desk.late[0].step, 1u);
  EXPECT_EQ(desk.late[0].epoch, Epoch(1, 1));
}

// Goal: epochs come from the boot count, rise with every recovery leased, and end above what a
// server reports; an epoch of a later boot than this one is nothing that can be repaired.
TEST(CoordinatorRecovery, EpochsRise) {
  Desk desk(SmallRun(), 7);
  const Grant first = desk.AskFor(Work::kRecover);
  EXPECT_EQ(first.epoch, Epoch(7, 1));
  // A server is at a higher counter of this boot: the next recovery is above it.
  EXPECT_EQ(desk.Recovered(first.epoch, 0, false, Epoch(7, 41)), Code::kOk);
  const Grant second = desk.AskFor(Work::kRecover, 2);
  EXPECT_EQ(second.epoch, Epoch(7, 42));
  // Epochs of an earlier boot are below all of this one's anyway.
  EXPECT_EQ(desk.Recovered(second.epoch, 0, false, Epoch(6, 99)), Code::kOk);
  const Grant third = desk.AskFor(Work::kRecover);
  EXPECT_EQ(third.epoch, Epoch(7, 43));
  EXPECT_EQ(desk.Recovered(third.epoch, 0, false, Epoch(8, 1)), Code::kOk);
  const Grant failed = desk.AskFor(Work::kFailed);
  EXPECT_NE(failed.failure.find("--data"), std::string::npos);
}

// Goal: a holder of an earlier recovery who comes late opens nothing.
TEST(CoordinatorRecovery, LateRecoveredOfAnOlderEpochIsRefused) {
  Desk desk(SmallRun());
  const Grant old = desk.AskFor(Work::kRecover, 1);
  desk.Tick(kLease);
  const Grant young = desk.AskFor(Work::kRecover, 2);
  EXPECT_GT(young.epoch, old.epoch);
  EXPECT_EQ(desk.coordinator.leases_expired(), 1u);
  EXPECT_EQ(desk.Recovered(old.epoch, 5), Code::kWrongEpoch);
  EXPECT_EQ(desk.Recovered(old.epoch, 5, false, Epoch(9, 9)), Code::kWrongEpoch);
  EXPECT_EQ(desk.coordinator.step(), 0u);
  EXPECT_EQ(desk.Recovered(young.epoch, 0), Code::kOk);
  EXPECT_EQ(desk.coordinator.step(), 1u);
  // Said twice, or by the old one again: the run goes on undisturbed.
  EXPECT_EQ(desk.Recovered(young.epoch, 0), Code::kWrongEpoch);
  EXPECT_EQ(desk.Recovered(old.epoch, 0), Code::kWrongEpoch);
  EXPECT_EQ(desk.AskFor(Work::kMicroBatch).step, 1u);
}

// Goal: a recovery in the middle of a step takes back the steps after the recovered one and fences
// off all work of the earlier epoch.
TEST(CoordinatorRecovery, RollsBackRecordsAndFencesOldWork) {
  Desk desk(SmallRun());
  desk.Recover();
  for (int i = 0; i < 5; ++i) desk.RunStep();
  const Grant work = desk.AskFor(Work::kMicroBatch);
  EXPECT_EQ(work.step, 6u);
  desk.StartRecovery();
  EXPECT_EQ(desk.Done(work.epoch, 6, 0), Code::kStale);  // recovery is due, nobody leads it yet
  const Grant recover = desk.AskFor(Work::kRecover, 2);
  desk.StartRecovery();  // known already
  EXPECT_EQ(desk.Done(work.epoch, 6, 0), Code::kWrongEpoch);
  EXPECT_EQ(desk.Recovered(recover.epoch, 3), Code::kOk);
  EXPECT_EQ(desk.coordinator.step(), 4u);
  ASSERT_EQ(desk.coordinator.records().size(), 3u);
  EXPECT_EQ(desk.coordinator.records().back().step, 3u);
  EXPECT_EQ(desk.coordinator.RecordsFrom(0).size(), 3u);
  ASSERT_EQ(desk.coordinator.RecordsFrom(2).size(), 2u);
  EXPECT_EQ(desk.coordinator.RecordsFrom(2).front().step, 2u);
  EXPECT_EQ(desk.coordinator.RecordsFrom(4).size(), 0u);
  // The old holder finishes what is open now under the same numbers, but in another epoch.
  EXPECT_EQ(desk.Done(work.epoch, 4, 0, 1e9), Code::kWrongEpoch);
  EXPECT_EQ(desk.End(work.epoch, 4), Code::kWrongEpoch);
  desk.RunStep();
  EXPECT_EQ(desk.coordinator.records().back().loss, 4.0 / kTokens);
}

// Goal: micro-batches go out in order, no further than the window beyond the lowest unfinished one.
TEST(CoordinatorLeases, InOrderWithinTheWindow) {
  RunRules rules = SmallRun(20, 6);
  rules.window = 3;
  Desk desk(rules);
  desk.Recover();
  for (uint32_t i = 0; i < 3; ++i) EXPECT_EQ(desk.AskFor(Work::kMicroBatch, i + 1).micro_batch, i);
  EXPECT_FALSE(desk.TryAsk(9).has_value());
  EXPECT_EQ(desk.Done(1), Code::kOk);  // the lowest unfinished one has not moved
  EXPECT_TRUE(desk.late.empty());
  EXPECT_EQ(desk.Done(0), Code::kOk);  // now it is 2: numbers 3 and 4 are admitted
  ASSERT_EQ(desk.late.size(), 1u);
  EXPECT_EQ(desk.late[0].micro_batch, 3u);
  EXPECT_EQ(desk.AskFor(Work::kMicroBatch).micro_batch, 4u);
  EXPECT_FALSE(desk.TryAsk(9).has_value());
}

// Goal: a lease that is not renewed ends, is counted, and its work goes to someone else; a renewed
// one does not.
TEST(CoordinatorLeases, ExpiredLeasesGoToSomeoneElse) {
  Desk desk(SmallRun());
  desk.Recover();
  const Grant kept = desk.AskFor(Work::kMicroBatch, 1);
  const Grant lost = desk.AskFor(Work::kMicroBatch, 2);
  EXPECT_EQ(lost.lease_seconds, kLease);
  desk.Tick(kLease / 2);
  EXPECT_TRUE(desk.coordinator.Renew(kept.lease, desk.now).ok());
  desk.Tick(kLease / 2);
  EXPECT_EQ(desk.coordinator.leases_expired(), 1u);
  EXPECT_EQ(desk.coordinator.Renew(lost.lease, desk.now).code(), Code::kStale);
  EXPECT_EQ(desk.coordinator.Renew(12345, desk.now).code(), Code::kStale);
  EXPECT_TRUE(desk.coordinator.Renew(kept.lease, desk.now).ok());
  const Grant again = desk.AskFor(Work::kMicroBatch, 3);
  EXPECT_EQ(again.micro_batch, lost.micro_batch);
  EXPECT_NE(again.lease, lost.lease);
  // Both finish; the later one is harmless.
  EXPECT_EQ(desk.Done(lost.micro_batch, 2), Code::kOk);
  EXPECT_EQ(desk.Done(again.micro_batch, 3), Code::kOk);
  EXPECT_EQ(desk.coordinator.Renew(again.lease, desk.now).code(), Code::kStale);
}

// Goal: when all are leased, the oldest unfinished micro-batch goes out a second time: to another
// session, after twice the median time, and once.
TEST(CoordinatorLeases, SecondLeaseOnceAfterTwiceTheMedian) {
  Desk desk(SmallRun(20, 4));
  desk.Recover();
  for (uint64_t i = 0; i < 4; ++i) desk.AskFor(Work::kMicroBatch, i % 2 + 1);
  desk.Tick(1);
  EXPECT_EQ(desk.Done(3), Code::kOk);
  EXPECT_EQ(desk.Done(2), Code::kOk);        // both took 1 second
  EXPECT_FALSE(desk.TryAsk(7).has_value());  // 1 second is not late
  desk.Tick(0.9);
  EXPECT_FALSE(desk.TryAsk(7).has_value());
  desk.late.clear();
  desk.Tick(0.2);  // 2.1 seconds since: one of session 7's two asks is served
  ASSERT_EQ(desk.late.size(), 1u);
  EXPECT_EQ(desk.late[0].work, Work::kMicroBatch);
  EXPECT_EQ(desk.late[0].micro_batch, 0u);
  EXPECT_FALSE(desk.TryAsk(8).has_value());  // once
  desk.late.clear();
  desk.Tick(20);  // all leases have ended: both asks that wait are served
  ASSERT_EQ(desk.late.size(), 2u);
  EXPECT_EQ(desk.late[0].micro_batch, 0u);
  EXPECT_EQ(desk.late[1].micro_batch, 1u);
}

// Goal: a session never gets its own micro-batch a second time, however late it is.
TEST(CoordinatorLeases, SecondLeaseNeverToTheSameSession) {
  Desk desk(SmallRun(20, 2));
  desk.Recover();
  desk.AskFor(Work::kMicroBatch, 1);
  desk.AskFor(Work::kMicroBatch, 2);
  desk.Tick(1);
  EXPECT_EQ(desk.Done(1), Code::kOk);
  desk.Tick(5);
  EXPECT_FALSE(desk.TryAsk(1).has_value());
  EXPECT_EQ(desk.AskFor(Work::kMicroBatch, 2).micro_batch, 0u);
}

// Goal: repeats and second leases count once, and the loss is summed in number order whatever the
// order of arrival.
TEST(CoordinatorStep, DoneTwiceCountsOnceAndLossIsSummedInOrder) {
  // In float-like sums the order shows: (1e16 + 1) - 1e16 + 1 = 1, and 2 in other orders.
  const double losses[] = {1e16, 1, -1e16, 1};
  double expected = 0;
  for (const double loss : losses) expected += loss;
  Desk desk(SmallRun(20, 4));
  desk.Recover();
  for (const uint32_t number : {2u, 0u, 2u, 3u, 0u}) {
    EXPECT_EQ(desk.Done(number, losses[number]), Code::kOk);
  }
  EXPECT_EQ(desk.Done(2, 12345), Code::kOk);  // another answer for the same number is not taken
  EXPECT_EQ(desk.Done(4), Code::kInvalid);
  EXPECT_EQ(desk.Done(1, losses[1]), Code::kOk);
  EXPECT_EQ(desk.Done(1, losses[1]), Code::kStale);  // all are in, commit is due
  desk.AskFor(Work::kCommit);
  EXPECT_EQ(desk.End(), Code::kOk);
  EXPECT_EQ(desk.coordinator.records().back().loss, expected / kTokens);
}

// Goal: late results of earlier holders are told apart from current ones and change nothing.
TEST(CoordinatorStep, StaleAndWrongEpochResultsAreHarmless) {
  Desk desk(SmallRun());
  desk.Recover();
  desk.RunStep();
  const uint64_t epoch = desk.coordinator.epoch();
  EXPECT_EQ(desk.Done(epoch, 1, 0, 1e9), Code::kStale);
  EXPECT_EQ(desk.Done(epoch, 3, 0, 1e9), Code::kNotYet);
  EXPECT_EQ(desk.Done(epoch - 1, 2, 0, 1e9), Code::kWrongEpoch);
  EXPECT_EQ(desk.Done(epoch + 1, 2, 0, 1e9), Code::kWrongEpoch);
  EXPECT_EQ(desk.End(epoch, 1), Code::kStale);
  EXPECT_EQ(desk.End(epoch, 2), Code::kStale);  // micro-batches are not in
  EXPECT_EQ(desk.Evaluated(epoch, 2, 1), Code::kStale);
  EXPECT_EQ(desk.AskFor(Work::kMicroBatch).micro_batch, 0u);
  desk.AllDone();
  EXPECT_EQ(desk.End(epoch - 1, 2), Code::kWrongEpoch);
  EXPECT_EQ(desk.End(epoch + 1, 2), Code::kWrongEpoch);
  EXPECT_EQ(desk.End(epoch, 2), Code::kOk);
  EXPECT_EQ(desk.coordinator.records().back().loss, 4.0 / kTokens);
}

// Goal: commit has one holder; who takes over a lost lease gets the same rate and limit; the
// earlier holder may still be the one who ends the step, and only one of them does.
TEST(CoordinatorStep, CommitIsLeasedToOneAndRepeatedToTheNext) {
  Desk desk(SmallRun());
  desk.Recover();
  desk.AllDone();
  const Grant first = desk.AskFor(Work::kCommit, 1);
  EXPECT_EQ(first.lr, LearningRate(SmallRun(), 1));
  EXPECT_EQ(first.clip, 1.0);
  EXPECT_FALSE(desk.TryAsk(2).has_value());
  desk.Tick(kLease);
  ASSERT_EQ(desk.late.size(), 1u);
  const Grant second = desk.late[0];
  EXPECT_EQ(second.work, Work::kCommit);
  EXPECT_EQ(desk.coordinator.leases_expired(), 1u);
  EXPECT_EQ(second.step, first.step);
  EXPECT_EQ(second.lr, first.lr);
  EXPECT_EQ(second.clip, first.clip);
  EXPECT_EQ(desk.End(first.epoch, first.step), Code::kOk);
  EXPECT_EQ(desk.End(second.epoch, second.step), Code::kStale);
  EXPECT_EQ(desk.coordinator.records().size(), 1u);
  EXPECT_EQ(desk.coordinator.step(), 2u);
}

// Goal: a dropped step advances step number and schedule, and is told in its record.
TEST(CoordinatorStep, DroppedStepsAdvanceStepAndSchedule) {
  const RunRules rules = SmallRun(200, 2);  // two steps of warm-up: rates differ
  Desk desk(rules);
  desk.Recover();
  for (uint64_t step = 1; step <= 4; ++step) {
    desk.AllDone();
    const Grant commit = desk.AskFor(Work::kCommit);
    EXPECT_EQ(commit.step, step);
    EXPECT_EQ(commit.lr, LearningRate(rules, step));
    EXPECT_EQ(desk.End(step % 2 == 0), Code::kOk);
    EXPECT_EQ(desk.coordinator.records().back().dropped, step % 2 == 1);
    EXPECT_EQ(desk.coordinator.records().back().lr, LearningRate(rules, step));
  }
}

// Goal: ten dropped steps in a row end the run with the tensor's name; nine do not, nor do a
// hundred with an applied one between.
TEST(CoordinatorStep, TenDropsInARowFailTheRun) {
  Desk desk(SmallRun(100, 1));
  desk.Recover();
  for (int i = 0; i < 9; ++i) desk.RunStep(false, "head.weight");
  desk.RunStep();
  for (int i = 0; i < 9; ++i) desk.RunStep(false, "head.weight");
  EXPECT_EQ(desk.AskFor(Work::kMicroBatch).step, 20u);
  desk.RunStep(false, "blocks.0.m2.tables");
  const Grant failed = desk.Ask(1, 19);
  EXPECT_EQ(failed.work, Work::kFailed);
  EXPECT_NE(failed.failure.find("blocks.0.m2.tables"), std::string::npos) << failed.failure;
  ASSERT_EQ(failed.records.size(), 1u);  // the last line is told, too
  EXPECT_EQ(failed.records[0].step, 20u);
  // Nothing wakes a failed run.
  desk.StartRecovery();
  EXPECT_EQ(desk.Done(0), Code::kStale);
  EXPECT_EQ(desk.AskFor(Work::kFailed).work, Work::kFailed);
}

// Goal: a recovery between them does not hide that steps were dropped in a row.
TEST(CoordinatorStep, DropsInARowAreCountedAcrossARecovery) {
  Desk desk(SmallRun(100, 1));
  desk.Recover();
  desk.RunStep();
  for (int i = 0; i < 9; ++i) desk.RunStep(false, "head.weight");  // steps 2 to 10
  desk.StartRecovery();
  desk.Recover(8);
  desk.RunStep(false, "head.weight");
  desk.RunStep(false, "head.weight");
  EXPECT_EQ(desk.AskFor(Work::kMicroBatch).step, 11u);
  desk.RunStep(false, "head.weight");
  EXPECT_EQ(desk.AskFor(Work::kFailed).work, Work::kFailed);
}

// Goal: evaluation comes after the steps that are due and after the last; its step's record is
// shown when the result is in, and then the run goes on or is finished.
TEST(CoordinatorEvaluation, ComesWhenDueAndAfterTheLastStep) {
  RunRules rules = SmallRun(3, 1);
  rules.eval_every = 2;
  Desk desk(rules);
  desk.Recover();
  desk.RunStep();
  desk.RunStep();
  const Grant evaluate = desk.Ask(1, 0);
  EXPECT_EQ(evaluate.work, Work::kEvaluate);
  EXPECT_EQ(evaluate.step, 2u);
  ASSERT_EQ(evaluate.records.size(), 1u);  // step 2 waits for its val_loss
  EXPECT_FALSE(desk.TryAsk(2).has_value());
  EXPECT_EQ(desk.Done(evaluate.epoch, 2, 0), Code::kStale);
  EXPECT_EQ(desk.Evaluated(evaluate.epoch + 1, 2, 3.5), Code::kWrongEpoch);
  EXPECT_EQ(desk.Evaluated(evaluate.epoch, 1, 3.5), Code::kStale);
  EXPECT_EQ(desk.Evaluated(evaluate.epoch, 2, 3.5), Code::kOk);
  EXPECT_EQ(desk.Evaluated(evaluate.epoch, 2, 4.5), Code::kStale);
  EXPECT_EQ(desk.late.back().work, Work::kMicroBatch);
  EXPECT_EQ(desk.coordinator.records().back().val_loss, 3.5);
  EXPECT_TRUE(desk.coordinator.records().back().has_val_loss);
  EXPECT_FALSE(desk.coordinator.records().front().has_val_loss);

  desk.RunStep();
  EXPECT_FALSE(desk.coordinator.finished());
  const Grant last = desk.AskFor(Work::kEvaluate);
  desk.Tick(kLease);  // its holder dies
  EXPECT_EQ(desk.AskFor(Work::kEvaluate, 2).step, 3u);
  EXPECT_EQ(desk.Evaluated(last.epoch, 3, 2.5), Code::kOk);
  EXPECT_TRUE(desk.coordinator.finished());
  const Grant finished = desk.Ask(1, 2);
  EXPECT_EQ(finished.work, Work::kFinished);
  ASSERT_EQ(finished.records.size(), 1u);
  EXPECT_EQ(finished.records[0].val_loss, 2.5);
  EXPECT_EQ(desk.Ask(5, 3).work, Work::kFinished);
}

// Goal: a server lost during an evaluation does not cost its result, and nobody is told the step's
// record without it.
TEST(CoordinatorEvaluation, IsRepeatedAfterARecoveryToItsStep) {
  Desk desk(SmallRun(2, 1));
  desk.Recover();
  desk.RunStep();
  desk.RunStep();
  const Grant lost = desk.AskFor(Work::kEvaluate);
  desk.StartRecovery();
  const Grant recover = desk.Ask(1, 0);
  EXPECT_EQ(recover.work, Work::kRecover);
  ASSERT_EQ(recover.records.size(), 1u);
  EXPECT_EQ(recover.records[0].step, 1u);
  EXPECT_EQ(desk.Recovered(recover.epoch, 2), Code::kOk);
  EXPECT_FALSE(desk.coordinator.finished());
  const Grant again = desk.AskFor(Work::kEvaluate);
  EXPECT_EQ(again.step, 2u);
  EXPECT_EQ(desk.Evaluated(lost.epoch, 2, 9), Code::kWrongEpoch);
  EXPECT_EQ(desk.Evaluated(again.epoch, 2, 1.5), Code::kOk);
  EXPECT_TRUE(desk.coordinator.finished());
  EXPECT_EQ(desk.coordinator.records().back().val_loss, 1.5);
}

// Goal: an ask waits for work at most kWaitSecondsMax, then is told to wait, once.
TEST(CoordinatorAsk, ParkedAsksAreAnsweredInTime) {
  Desk desk(SmallRun(20, 1));
  desk.Recover();
  desk.AskFor(Work::kMicroBatch, 1);
  EXPECT_FALSE(desk.TryAsk(2).has_value());
  desk.Tick(Coordinator::kWaitSecondsMax * 0.99);
  EXPECT_TRUE(desk.late.empty());
  desk.Tick(Coordinator::kWaitSecondsMax * 0.02);
  ASSERT_EQ(desk.late.size(), 1u);
  EXPECT_EQ(desk.late[0].work, Work::kWait);
  desk.Tick(Coordinator::kWaitSecondsMax * 3);
  EXPECT_EQ(desk.late.size(), 1u);
}

// Goal: an asker is told the records after the one that it knows, all of them, in order and once.
TEST(CoordinatorAsk, RecordsAreHandedOutOncePerKnownStep) {
  Desk desk(SmallRun(50, 1));
  desk.Recover();
  uint64_t known = 0;
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < round % 4; ++i) desk.RunStep();
    const Grant grant = desk.Ask(1, known);
    EXPECT_EQ(grant.records.size(), static_cast<size_t>(round % 4));
    for (const StepRecord& record : grant.records) EXPECT_EQ(record.step, ++known);
    desk.Tick(kLease);  // the lease is not used
  }
  EXPECT_EQ(desk.Ask(2, 0).records.size(), known);
  desk.Tick(kLease);
  EXPECT_TRUE(desk.Ask(3, known + 7).records.empty());
}

// Goal: a run that ten dropped steps in a row have ended does not go on because it was stopped and
// started again from a snapshot of then.
TEST(CoordinatorSnapshots, TenDropsInARowEndAResumedRun) {
  const RunRules rules{.steps = 100};
  for (const uint64_t drops : {9u, 10u}) {
    Coordinator coordinator(rules, /*boot_count=*/2);
    std::vector<StepRecord> records;
    for (uint64_t step = 1; step <= 13; ++step) {
      records.push_back({.step = step, .dropped = step > 13 - drops});
    }
    Coordinator::Grants grants = coordinator.Ask(1, 1, 0, 0);
    ASSERT_EQ(grants.size(), 1u);
    coordinator.Restore(13, records);
    ASSERT_TRUE(coordinator.Recovered({{grants[0].epoch, 13}, true, 0, {}}, 0, &grants).ok());
    EXPECT_STREQ(coordinator.phase(), drops < 10 ? "micro_batches" : "failed");
  }
}

// Goal: when a snapshot is due, and that every holder of a step's commit is told the same.
TEST(CoordinatorSnapshots, Due) {
  const RunRules rules{.steps = 6,
                       .micro_batches = 1,
                       .lease_seconds = 1,
                       .eval_every = 0,
                       .snapshots = {.every_steps = 2, .every_minutes = 0, .keep = 7}};
  Coordinator coordinator(rules, 1);
  double now = 0;
  Coordinator::Grants grants = coordinator.Ask(1, 1, 0, now);
  const uint64_t epoch = grants.at(0).epoch;
  ASSERT_TRUE(coordinator.Recovered({{epoch, 0}, true, 0, {}}, now, &grants).ok());
  using enum SnapshotDue;
  // One that could not be taken when it was due is due at the next step.
  const std::vector<SnapshotDue> due = {kNo, kWhenIdle, kWhenIdle, kWhenIdle, kNo, kNow};
  const std::vector<bool> taken = {false, false, true, true, false, true};
  for (uint64_t step = 1; step <= 6; ++step) {
    ASSERT_EQ(coordinator.Ask(10 * step, 1, step, now).size(), 1u);
    ASSERT_TRUE(coordinator.MicroBatchDone({{epoch, step}, 0, 1}, now, &grants).ok());
    for (int holder = 0; holder < 2; ++holder) {
      now += 2;  // the lease of the first one ends
      grants = coordinator.Ask(10 * step + 1 + static_cast<uint64_t>(holder), 1, step, now);
      ASSERT_EQ(grants.size(), 1u);
      EXPECT_EQ(grants[0].work, Work::kCommit);
      EXPECT_EQ(grants[0].snapshot_due, due[step - 1]) << step;
      EXPECT_EQ(grants[0].snapshot_keep, 7u);
    }
    ASSERT_TRUE(
        coordinator.StepEnded({{epoch, step}, true, 1, "", taken[step - 1]}, now, &grants).ok());
  }
}

}  // namespace
}  // namespace mf
