// Goal: which records of steps are news to a worker, and what the holder of commit asks of the
// servers.
#include "common/client/lease_work.h"

#include <gtest/gtest.h>

#include "common/client/membership.h"

namespace mf {
namespace {

LeaseReply Told(uint64_t epoch, std::vector<uint64_t> steps) {
  LeaseReply lease;
  lease.epoch = epoch;
  for (const uint64_t step : steps) lease.records.push_back({.step = step});
  return lease;
}

std::vector<uint64_t> StepsOf(const std::vector<StepRecord>& records) {
  std::vector<uint64_t> steps;
  for (const StepRecord& record : records) steps.push_back(record.step);
  return steps;
}

TEST(Membership, TakesTheRecordsThatAreNews) {
  Membership cursor("what it is", 1);
  EXPECT_EQ(StepsOf(cursor.TakeRecords(Told(5, {1, 2, 3}))), std::vector<uint64_t>({1, 2, 3}));
  EXPECT_EQ(StepsOf(cursor.TakeRecords(Told(5, {2, 3, 4}))), std::vector<uint64_t>({4}));
  EXPECT_EQ(cursor.Ask().known_epoch, 5u);
  EXPECT_EQ(cursor.Ask().known_step, 4u);
  // A rollback: steps come again, and are then the ones that count; what is late of before is not.
  EXPECT_EQ(StepsOf(cursor.TakeRecords(Told(6, {1, 2}))), std::vector<uint64_t>({1, 2}));
  EXPECT_TRUE(cursor.TakeRecords(Told(5, {3, 4, 5})).empty());
  EXPECT_EQ(StepsOf(cursor.TakeRecords(Told(6, {3}))), std::vector<uint64_t>({3}));
}

// The coordinator's word counts, not the holder's configuration.
TEST(DecideEnd, KeepsAsManyAsTheCoordinatorSays) {
  Prepared prepared;
  prepared.squares = 4;
  prepared.snapshots = {{{10, 20, 30}, 0}, {{10, 20, 30}, 0}};
  LeaseReply lease;
  lease.clip = 1;
  lease.lr = 0.5;
  lease.snapshot_due = SnapshotDue::kWhenIdle;
  for (const uint64_t keep : {1, 2, 3}) {
    lease.snapshot_keep = keep;
    const StepEnd end = DecideEnd(prepared, lease);
    EXPECT_TRUE(end.apply);
    EXPECT_EQ(end.grad_norm, 2);
    EXPECT_NEAR(end.scale, 0.5, 1e-6);
    EXPECT_EQ(end.snapshots.discard.size(), 3 - keep);
    const auto request = std::get<ApplyRequest>(EndRequest({7, 31}, end));
    EXPECT_EQ(request.at, (OpenStep{7, 31}));
    EXPECT_EQ(request.snapshots.common, 30u);
    EXPECT_TRUE(request.snapshots.take);
    EXPECT_EQ(request.snapshots, end.snapshots);
  }
}

}  // namespace
}  // namespace mf
