// Goal: whatever a crowd of slow, dying and repeating workers does, a run comes to its end with
// every step in order and every micro-batch of it counted once. Thousands of random schedules; a
// failing one is named by its seed.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "common/run/schedule.h"
#include "pserver/coordinator/coordinator.h"

namespace mf {
namespace {

constexpr int64_t kTokens = 64;  // per micro-batch
constexpr uint64_t kSchedules = 4000;
constexpr uint64_t kSnapshotEvery = 2;

/// The loss of a micro-batch: its sums show every number that is missing, doubled or out of order.
double Loss(uint64_t step, uint32_t number) {
  return 1.0 / (3.0 + static_cast<double>(step * 31 + number));
}

double StepLoss(uint64_t step, int64_t micro_batches) {
  double sum = 0;
  for (uint32_t i = 0; i < micro_batches; ++i) sum += Loss(step, i);
  return sum / static_cast<double>(micro_batches * kTokens);
}

bool Dropped(uint64_t step) { return step % 5 == 3; }

/// One run: workers with random speeds, a model of the servers' state, and the coordinator between
/// them.
class Schedule {
 public:
  explicit Schedule(uint64_t seed) : random_(seed), rules_(RandomRules()), coordinator_(rules_, 1) {
    workers_.resize(1 + Below(6));
    for (Worker& worker : workers_) worker.session = ++sessions_;
  }

  void Run() {
    for (int event = 0; event < 20'000 && !coordinator_.finished(); ++event) {
      now_ += 0.001 * static_cast<double>(Below(400));
      Take(coordinator_.Tick(now_));
      if (Below(60) == 0) Take(coordinator_.StartRecovery(now_));
      Act(workers_[Below(workers_.size())]);
      if (::testing::Test::HasFatalFailure()) return;
    }
    ASSERT_TRUE(coordinator_.finished());
    const auto& records = coordinator_.records();
    ASSERT_EQ(records.size(), static_cast<size_t>(rules_.steps));
    for (uint64_t step = 1; step <= records.size(); ++step) {
      const StepRecord& record = records[step - 1];
      ASSERT_EQ(record.step, step);
      ASSERT_EQ(record.loss, StepLoss(step, rules_.micro_batches));
      ASSERT_EQ(record.dropped, Dropped(step));
      ASSERT_EQ(record.lr, LearningRate(rules_, step));
      ASSERT_EQ(record.has_val_loss, EvaluationIsDue(step));
      ASSERT_EQ(record.val_loss, EvaluationIsDue(step) ? static_cast<double>(step) : 0.0);
    }
  }

 private:
  struct Worker {
    uint64_t session = 0;
    uint64_t ticket = 0;  // of the ask that is not answered yet
    std::vector<Grant> work;
    std::vector<Grant> done;  // earlier work, which may be reported again
  };

  uint64_t Below(uint64_t bound) { return random_() % bound; }

  RunRules RandomRules() {
    RunRules rules;
    rules.tokens_per_micro_batch = kTokens;
    rules.steps = static_cast<int64_t>(1 + Below(8));
    rules.micro_batches = static_cast<int64_t>(1 + Below(6));
    rules.window = static_cast<int64_t>(1 + Below(4));
    rules.lease_seconds = 0.5 + static_cast<double>(Below(40)) / 10;
    rules.eval_every = static_cast<int64_t>(Below(3));
    return rules;
  }
  bool EvaluationIsDue(uint64_t step) const {
    return step == static_cast<uint64_t>(rules_.steps) ||
           (rules_.eval_every > 0 && step % static_cast<uint64_t>(rules_.eval_every) == 0);
  }

  void Act(Worker& worker) {
    const uint64_t choice = Below(20);
    if (choice == 0) {  // dies; another one comes in its place, its asks and leases stay behind
      worker = Worker{.session = ++sessions_, .ticket = 0, .work = {}, .done = {}};
    } else if (choice == 1 && !worker.done.empty()) {  // a message that was delayed or sent again
      Report(worker.done[Below(worker.done.size())]);
    } else if (choice == 2 && !worker.work.empty()) {
      // Refused where the lease has ended: the work goes on all the same and is reported late.
      (void)coordinator_.Renew(worker.work.back().lease, now_);
    } else if (choice < 12 && !worker.work.empty()) {
      const Grant grant = worker.work.back();
      worker.work.pop_back();
      worker.done.push_back(grant);
      Report(grant);
    } else if (worker.ticket == 0 && worker.work.size() < 2) {
      worker.ticket = ++tickets_;
      Take(coordinator_.Ask(worker.ticket, worker.session, 0, now_));
    }
  }

  void Take(const Coordinator::Grants& grants) {
    for (const Grant& grant : grants) {
      CheckGrant(grant);
      const auto worker = std::find_if(workers_.begin(), workers_.end(),
                                       [&](const Worker& w) { return w.ticket == grant.ticket; });
      if (worker == workers_.end()) continue;  // the asker is dead, the lease is lost
      worker->ticket = 0;
      if (grant.work != Work::kWait) worker->work.push_back(grant);
    }
  }

  void CheckGrant(const Grant& grant) {
    ASSERT_NE(grant.work, Work::kFailed) << grant.failure;
    if (grant.work == Work::kWait || grant.work == Work::kFinished) return;
    ASSERT_TRUE(leases_.insert(grant.lease).second);
    if (grant.work == Work::kRecover) {
      ASSERT_GT(grant.epoch, epoch_);
      epoch_ = grant.epoch;
      return;
    }
    ASSERT_EQ(grant.epoch, epoch_);
    if (grant.work == Work::kMicroBatch) {
      ASSERT_EQ(grant.step, finished_ + 1);
      uint32_t lowest = 0;
      while (counted_.contains(lowest)) ++lowest;
      ASSERT_FALSE(counted_.contains(grant.micro_batch));
      ASSERT_LT(grant.micro_batch, lowest + rules_.window);
    } else if (grant.work == Work::kCommit) {
      ASSERT_EQ(grant.lr, LearningRate(rules_, grant.step));
      ASSERT_EQ(counted_.size(), static_cast<size_t>(rules_.micro_batches));
    }
  }

  /// What the holder of `grant` says when the work is done; the servers' state moves where they
  /// accept.
  void Report(const Grant& grant) {
    Coordinator::Grants grants;
    const bool fresh = grant.epoch == epoch_;
    switch (grant.work) {
      case Work::kMicroBatch: {
        // The loss of what must not be counted would show in the step's record.
        const bool counts = fresh && !counted_.contains(grant.micro_batch);
        const double loss = counts ? Loss(grant.step, grant.micro_batch) : 1e6;
        const Status status =
            coordinator_.MicroBatchDone({grant.open(), grant.micro_batch, loss}, now_, &grants);
        if (status.ok()) {
          ASSERT_TRUE(fresh);
          ASSERT_EQ(grant.step, finished_ + 1);
          counted_.insert(grant.micro_batch);
        }
        break;
      }
      case Work::kCommit: {
        const Status status = coordinator_.StepEnded(
            {grant.open(), !Dropped(grant.step), 1.0, "", false}, now_, &grants);
        if (status.ok()) {
          ASSERT_EQ(grant.step, finished_ + 1);
          ASSERT_EQ(counted_.size(), static_cast<size_t>(rules_.micro_batches));
          ++finished_;
          counted_.clear();
        }
        break;
      }
      case Work::kEvaluate:
        (void)coordinator_.Evaluated({grant.finished(), static_cast<double>(grant.step)}, now_,
                                     &grants);
        break;
      case Work::kRecover: {
        const bool ok = Below(4) != 0;
        const uint64_t snapshot =
            Below(3) == 0 ? finished_ : finished_ / kSnapshotEvery * kSnapshotEvery;
        if (coordinator_
                .Recovered({{grant.epoch, snapshot}, ok, epoch_ + Below(2), {}}, now_, &grants)
                .ok() &&
            ok) {
          ASSERT_TRUE(fresh);
          finished_ = snapshot;
          counted_.clear();
        }
        break;
      }
      default:
        break;
    }
    Take(grants);
  }

  std::mt19937_64 random_;
  const RunRules rules_;
  Coordinator coordinator_;
  std::vector<Worker> workers_;
  uint64_t sessions_ = 0, tickets_ = 0;
  double now_ = 0;
  // What the servers would be at.
  uint64_t epoch_ = 0;
  uint64_t finished_ = 0;
  std::set<uint32_t> counted_;
  std::set<uint64_t> leases_;
};

TEST(CoordinatorProperty, EveryScheduleEndsWithEachMicroBatchCountedOnce) {
  for (uint64_t seed = 1; seed <= kSchedules; ++seed) {
    Schedule(seed).Run();
    if (HasFatalFailure()) {
      ADD_FAILURE() << "schedule of seed " << seed;
      return;
    }
  }
}

}  // namespace
}  // namespace mf
