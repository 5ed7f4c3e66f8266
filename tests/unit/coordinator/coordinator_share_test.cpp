// Goal: workers that wait for leases share them: none takes a whole step with its many lanes while
// another has nothing to do; and nobody waits for a worker that does not ask.
#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "pserver/coordinator/coordinator.h"

namespace mf {
namespace {

using Sessions = std::vector<uint64_t>;
using Shares = std::map<uint64_t, size_t>;  // micro-batches by session

/// A coordinator in the first step of a run, and who got what of it.
class Desk {
 public:
  static constexpr double kLease = 10;

  explicit Desk(int64_t micro_batches, int64_t window = 64)
      : micro_batches_(micro_batches), coordinator_(Rules(micro_batches, window), 1) {
    Ask({1});
    Coordinator::Grants grants;
    EXPECT_TRUE(
        coordinator_.Recovered({.to = {coordinator_.epoch(), 0}, .recovered = true}, now_, &grants)
            .ok());
  }

  void Ask(const Sessions& sessions) {
    for (const uint64_t session : sessions) {
      session_of_.push_back(session);
      Take(coordinator_.Ask(session_of_.size() - 1, session, 0, now_));
    }
  }
  void Done(uint32_t number) {
    Coordinator::Grants grants;
    EXPECT_TRUE(
        coordinator_
            .MicroBatchDone({{coordinator_.epoch(), coordinator_.step()}, number, 1}, now_, &grants)
            .ok());
    Take(grants);
  }
  /// The open step's work is done and `asks` come while it is committed.
  void NextStep(const Sessions& asks) {
    for (uint32_t i = 0; i < micro_batches_; ++i) Done(i);
    Ask({1});
    EXPECT_STREQ(coordinator_.phase(), "commit");
    shares.clear();
    Ask(asks);
    EXPECT_TRUE(shares.empty());
    Coordinator::Grants grants;
    EXPECT_TRUE(coordinator_
                    .StepEnded({.at = {coordinator_.epoch(), coordinator_.step()},
                                .applied = true,
                                .grad_norm = 1},
                               now_, &grants)
                    .ok());
    Take(grants);
  }
  void Renew(uint64_t session) {
    for (const uint64_t lease : leases_[session])
      (void)coordinator_.Renew(lease, now_);  // some are over
  }
  void Tick(double seconds) {
    now_ += seconds;
    Take(coordinator_.Tick(now_));
  }

  Shares shares;

 private:
  static RunRules Rules(int64_t micro_batches, int64_t window) {
    return {.steps = 100,
            .micro_batches = micro_batches,
            .window = window,
            .lease_seconds = kLease,
            .eval_every = 0};
  }
  void Take(const Coordinator::Grants& grants) {
    for (const Grant& grant : grants) {
      if (grant.work != Work::kMicroBatch) continue;
      const uint64_t session = session_of_[grant.ticket];
      ++shares[session];
      leases_[session].push_back(grant.lease);
    }
  }

  const int64_t micro_batches_;
  Sessions session_of_;                               // by ticket
  std::map<uint64_t, std::vector<uint64_t>> leases_;  // by session
  double now_ = 0;
  Coordinator coordinator_;
};

// Goal: whoever asked first and whatever lanes there are, nobody who waits ends with two fewer than
// another; one worker alone gets all.
TEST(CoordinatorShare, AStepIsSharedByThoseWhoWait) {
  struct Case {
    Sessions asks;
    Shares shares;
  };
  const Case cases[] = {
      {{1, 1, 1, 1, 2, 2, 2, 2}, {{1, 2}, {2, 2}}},
      {{2, 2, 2, 2, 1, 1, 1}, {{1, 2}, {2, 2}}},
      {{2, 1, 1, 1, 1}, {{1, 3}, {2, 1}}},
      {{1, 1, 1, 1}, {{1, 4}}},
      {{1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3}, {{1, 2}, {2, 1}, {3, 1}}},
      {{1, 1, 1, 1, 2, 3, 4, 5}, {{1, 1}, {2, 1}, {3, 1}, {4, 1}}},
  };
  for (const Case& c : cases) {
    Desk desk(4);
    for (int step = 0; step < 3; ++step) {
      desk.NextStep(c.asks);
      EXPECT_EQ(desk.shares, c.shares) << "step " << step;
      desk.Tick(2 * Coordinator::kWaitSecondsMax);  // asks that are left are answered
    }
  }
}

// Goal: work is never kept for a worker that took part and does not ask, whether it is slow or
// gone.
TEST(CoordinatorShare, WhoDoesNotAskIsNotWaitedFor) {
  Desk desk(4);
  desk.NextStep({1, 1, 2, 2});
  EXPECT_EQ(desk.shares, (Shares{{1, 2}, {2, 2}}));
  desk.NextStep({});
  desk.Ask({1, 1, 1, 1});
  EXPECT_EQ(desk.shares, (Shares{{1, 4}}));
}

// Goal: what a worker that died while it waited was given goes, as every lost lease, to those who
// ask: to the one that has the fewest.
TEST(CoordinatorShare, LostLeasesAreSharedAgain) {
  Desk desk(4);
  desk.NextStep({1, 1, 1, 1, 2, 2, 2, 2});
  EXPECT_EQ(desk.shares, (Shares{{1, 2}, {2, 2}}));
  desk.Tick(Desk::kLease - 0.5);
  desk.Renew(1);
  desk.Ask({1, 1, 3, 3});
  desk.Tick(0.5);
  EXPECT_EQ(desk.shares, (Shares{{1, 2}, {2, 2}, {3, 2}}));
}

// Goal: where the window is what there is too little of, its next micro-batch goes to the worker
// that has the fewest.
TEST(CoordinatorShare, TheWindowIsSharedToo) {
  Desk desk(8, 3);
  desk.Ask({1, 1, 1, 1, 2});
  EXPECT_EQ(desk.shares, (Shares{{1, 3}}));
  desk.Done(0);
  EXPECT_EQ(desk.shares, (Shares{{1, 3}, {2, 1}}));
  desk.Done(1);
  EXPECT_EQ(desk.shares, (Shares{{1, 4}, {2, 1}}));
}

}  // namespace
}  // namespace mf
