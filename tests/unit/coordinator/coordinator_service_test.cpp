// Goal: who is asked to end is who still works: a run that is over has nobody to wait for.
#include "pserver/coordinator/coordinator_service.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace mf {
namespace {

constexpr uint64_t kSession = 7;
constexpr double kNow = 100;

/// A run of one step of one micro-batch, and its one worker.
class Service {
 public:
  /// What the worker gets when it asks.
  Work Ask(double now = kNow) {
    EXPECT_TRUE(desk.Lease("peer", {.id = ++requests_, .session = kSession}, {}, now).ok());
    return granted_.work;
  }
  template <class Body>
  void Report(const Body& body) {
    const Status status = desk.Report(kSession, body, kNow);
    EXPECT_TRUE(status.ok()) << status.message();
  }
  FinishedStep at(uint64_t step) const { return {granted_.epoch, step}; }
  OpenStep open() const { return at(0).next(); }
  void Recover() {
    desk.Joined(kSession, false, kNow);
    ASSERT_EQ(static_cast<int>(Ask()), static_cast<int>(Work::kRecover));
    Report(RecoveredRequest{.to = at(0), .recovered = true});
    ASSERT_EQ(static_cast<int>(Ask()), static_cast<int>(Work::kMicroBatch));
  }

 private:
  uint64_t requests_ = 0;
  LeaseReply granted_;

 public:
  CoordinatorService desk{
      {.steps = 1, .micro_batches = 1, .tokens_per_micro_batch = 1, .lease_seconds = 30},
      1,
      nullptr,
      [this](const std::string&, const Reply& reply) { granted_ = As<LeaseReply>(reply); }};
};

TEST(CoordinatorService, AStopWaitsForWhoWorks) {
  Service service;
  service.Recover();
  EXPECT_EQ(service.desk.Stop(kNow).workers, 1u);
  EXPECT_EQ(static_cast<int>(service.Ask()), static_cast<int>(Work::kStopped));
  EXPECT_EQ(service.desk.Leave(kSession, kNow).workers, 0u);
  EXPECT_EQ(service.desk.Stop(kNow).workers, 0u);
}

TEST(CoordinatorService, AStopEndsAWorkerThatWasHeldUpWhenItComesBack) {
  Service service;
  service.Recover();
  const double later = kNow + 100;  // than its leases
  service.desk.Tick(later);
  EXPECT_EQ(service.desk.Stop(later).workers, 0u) << "nobody waits for who may be lost";
  EXPECT_EQ(static_cast<int>(service.Ask(later)), static_cast<int>(Work::kStopped));
}

TEST(CoordinatorService, ARepeatedRequestGetsItsFirstAnswerWithItsRecords) {
  std::vector<Reply> sent;
  CoordinatorService desk(
      {.steps = 9, .micro_batches = 1, .tokens_per_micro_batch = 1, .lease_seconds = 30}, 1,
      nullptr, [&](const std::string&, const Reply& reply) { sent.push_back(reply); });
  std::vector<StepRecord> records;
  for (uint64_t step = 1; step <= 3; ++step) records.push_back({.step = step});
  desk.Restore(3, records);
  const Request request{.id = 1, .session = kSession};
  ASSERT_TRUE(desk.Lease("peer", request, {}, kNow).ok());
  ASSERT_TRUE(desk.Lease("peer again", request, {}, kNow).ok());
  ASSERT_EQ(sent.size(), 2u);
  EXPECT_FALSE(As<LeaseReply>(sent[0]).records.empty());
  EXPECT_TRUE(As<LeaseReply>(sent[0]) == As<LeaseReply>(sent[1]));
}

TEST(CoordinatorService, ARunThatIsOverHasNobodyToStop) {
  Service service;
  service.Recover();
  service.Report(MicroBatchDoneRequest{.at = service.open()});
  ASSERT_EQ(static_cast<int>(service.Ask()), static_cast<int>(Work::kCommit));
  service.Report(StepEndedRequest{.at = service.open(), .applied = true});
  ASSERT_EQ(static_cast<int>(service.Ask()), static_cast<int>(Work::kEvaluate));
  service.Report(EvaluatedRequest{.at = service.at(1)});
  ASSERT_TRUE(service.desk.coordinator().finished());
  const StopReply reply = service.desk.Stop(kNow);
  EXPECT_EQ(reply.workers, 0u) << "a worker of a finished run ends without a word";
  EXPECT_EQ(reply.at, service.at(1));
  // Who has not heard of the end yet finishes as if nobody had asked: it may have to export.
  EXPECT_EQ(static_cast<int>(service.Ask()), static_cast<int>(Work::kFinished));
}

}  // namespace
}  // namespace mf
