// Goal: a server takes each step's end once and only after it was prepared, in its own epoch, and
// answers late and repeated requests without doing anything (DESIGN 2.6, 2.7).
#include "pserver/shard/commit.h"

#include <gtest/gtest.h>

namespace mf {
namespace {

using Action = CommitState::Action;
constexpr uint64_t kEpoch = 1ull << 32 | 1;

/// A state recovered to `step` finished steps.
CommitState Recovered(uint64_t step = 0, uint64_t epoch = kEpoch) {
  CommitState state;
  EXPECT_TRUE(state.Rollback({epoch, step}).ok());
  return state;
}

/// Prepares and ends the open step.
void RunStep(CommitState& state, Ended how) {
  const uint64_t step = state.open().step;
  ASSERT_TRUE(state.Prepare({state.epoch(), step}, true).ok());
  const auto end = state.Finish({state.epoch(), step}, how);
  ASSERT_TRUE(end.ok());
  ASSERT_EQ(end.value().action, Action::kDo);
  ASSERT_EQ(end.value().ended, how);
}

/// Nothing of the state moves while `request` is answered with `code`.
template <class Request>
void ExpectRefused(CommitState& state, Code code, Request request) {
  const uint64_t epoch = state.epoch(), finished = state.finished();
  EXPECT_EQ(request(), code);
  EXPECT_EQ(state.epoch(), epoch);
  EXPECT_EQ(state.finished(), finished);
}

// Goal: before the first rollback everything is refused, whatever it claims.
TEST(Commit, UnavailableBeforeRecovery) {
  CommitState state;
  EXPECT_FALSE(state.recovered());
  for (const uint64_t epoch : {uint64_t{0}, kEpoch}) {
    for (const uint64_t step : {0, 1, 2}) {
      EXPECT_EQ(state.Admit({epoch, step}).code(), Code::kUnavailable);
      EXPECT_EQ(state.Prepare({epoch, step}, true).status().code(), Code::kUnavailable);
      EXPECT_EQ(state.Finish({epoch, step}, Ended::kApplied).status().code(), Code::kUnavailable);
    }
  }
  EXPECT_EQ(state.Rollback({0, 0}).status().code(),
            Code::kWrongEpoch);  // no coordinator issues epoch 0
  EXPECT_FALSE(state.recovered());
}

// Goal: only the open step of the own epoch is admitted; others are told why not.
TEST(Commit, AdmitsTheOpenStepOfItsEpochOnly) {
  CommitState state = Recovered(5);
  EXPECT_EQ(state.open().step, 6u);
  EXPECT_TRUE(state.Admit({kEpoch, 6}).ok());
  EXPECT_EQ(state.Admit({kEpoch, 5}).code(), Code::kStale);
  EXPECT_EQ(state.Admit({kEpoch, 0}).code(), Code::kStale);
  EXPECT_EQ(state.Admit({kEpoch, 7}).code(), Code::kNotYet);
  EXPECT_EQ(state.Admit({kEpoch, UINT64_MAX}).code(), Code::kNotYet);
  for (const uint64_t epoch : {kEpoch - 1, kEpoch + 1, uint64_t{0}, UINT64_MAX}) {
    EXPECT_EQ(state.Admit({epoch, 6}).code(), Code::kWrongEpoch);
  }
}

// Goal: a step is prepared only when all contributions are in; a repeat is recognised.
TEST(Commit, PrepareWaitsForAllAndRepeats) {
  CommitState state = Recovered();
  EXPECT_EQ(state.Prepare({kEpoch, 1}, false).status().code(), Code::kNotYet);
  EXPECT_EQ(state.Finish({kEpoch, 1}, Ended::kApplied).status().code(), Code::kNotYet);
  EXPECT_EQ(state.Prepare({kEpoch - 1, 1}, true).status().code(), Code::kWrongEpoch);
  EXPECT_EQ(state.Prepare({kEpoch, 2}, true).status().code(), Code::kNotYet);
  EXPECT_EQ(state.Prepare({kEpoch, 1}, true).value(), Action::kDo);
  EXPECT_EQ(state.Prepare({kEpoch, 1}, true).value(), Action::kRepeat);
  EXPECT_EQ(state.Prepare({kEpoch, 1}, false).value(), Action::kRepeat);
  RunStep(state, Ended::kApplied);  // the repeat inside is not a new one
  // Of the step that ended last the answer is still to be had: a new holder needs it.
  EXPECT_EQ(state.Prepare({kEpoch, 1}, true).value(), Action::kRepeat);
  EXPECT_EQ(state.Prepare({kEpoch - 1, 1}, true).status().code(), Code::kWrongEpoch);
  // Until the next step is prepared: the answer that is kept is then of that one.
  EXPECT_EQ(state.Prepare({kEpoch, 2}, true).value(), Action::kDo);
  EXPECT_EQ(state.Prepare({kEpoch, 1}, true).status().code(), Code::kStale);
  RunStep(state, Ended::kDropped);
  EXPECT_EQ(state.Prepare({kEpoch, 2}, true).value(), Action::kRepeat);
  EXPECT_EQ(state.Prepare({kEpoch, 1}, true).status().code(), Code::kStale);
}

// Goal: apply and drop need a prepared step, each step anew.
TEST(Commit, UnpreparedStepsDoNotEnd) {
  CommitState state = Recovered();
  for (const Ended how : {Ended::kApplied, Ended::kDropped}) {
    ExpectRefused(state, Code::kNotYet, [&] {
      return state.Finish({kEpoch, state.open().step}, how).status().code();
    });
  }
  RunStep(state, Ended::kApplied);
  ExpectRefused(state, Code::kNotYet, [&] {
    return state.Finish({kEpoch, 2}, Ended::kApplied).status().code();
  });
}

// Goal: a holder who lost the lease learns how the step ended, whatever he asks for, and changes
// nothing; a holder of another epoch learns nothing.
TEST(Commit, LateHoldersAreToldHowItEnded) {
  CommitState state = Recovered(3);
  RunStep(state, Ended::kDropped);  // step 4
  RunStep(state, Ended::kApplied);  // step 5
  ASSERT_TRUE(state.Prepare({kEpoch, 6}, true).ok());
  for (const Ended asked : {Ended::kApplied, Ended::kDropped}) {
    for (const auto& [step, ended] : {std::pair{4u, Ended::kDropped}, {5u, Ended::kApplied}}) {
      const auto end = state.Finish({kEpoch, step}, asked);
      ASSERT_TRUE(end.ok());
      EXPECT_EQ(end.value().action, Action::kRepeat);
      EXPECT_EQ(end.value().ended, ended);
    }
    // Steps before the last rollback are history of another life.
    EXPECT_EQ(state.Finish({kEpoch, 3}, asked).status().code(), Code::kStale);
    EXPECT_EQ(state.Finish({kEpoch, 0}, asked).status().code(), Code::kStale);
    EXPECT_EQ(state.Finish({kEpoch, 7}, asked).status().code(), Code::kNotYet);
    for (const uint64_t epoch : {kEpoch - 1, kEpoch + 1}) {
      EXPECT_EQ(state.Finish({epoch, 5}, asked).status().code(), Code::kWrongEpoch);
      EXPECT_EQ(state.Finish({epoch, 6}, asked).status().code(), Code::kWrongEpoch);
    }
    EXPECT_EQ(state.finished(), 5u);
  }
  EXPECT_EQ(state.Finish({kEpoch, 6}, Ended::kApplied).value().action,
            Action::kDo);  // still prepared
}

// Goal: epochs only rise; the rollback last done may be repeated and then does nothing.
TEST(Commit, RollbackOnlyForwardAndOnce) {
  CommitState state = Recovered(2, kEpoch + 4);
  for (const uint64_t epoch : {uint64_t{0}, kEpoch, kEpoch + 3}) {
    for (const uint64_t step : {0, 2, 3}) {
      ExpectRefused(state, Code::kWrongEpoch, [&] {
        return state.Rollback({epoch, step}).status().code();
      });
    }
  }
  // The same epoch with another step is somebody else's idea of it.
  ExpectRefused(state, Code::kWrongEpoch, [&] {
    return state.Rollback({kEpoch + 4, 1}).status().code();
  });
  EXPECT_EQ(state.Rollback({kEpoch + 4, 2}).value(), Action::kRepeat);
  RunStep(state, Ended::kApplied);
  EXPECT_EQ(state.Rollback({kEpoch + 4, 2}).value(), Action::kRepeat);  // a late duplicate
  EXPECT_EQ(state.finished(), 3u);
  EXPECT_EQ(state.Rollback({kEpoch + 5, 1}).value(), Action::kDo);
  EXPECT_EQ(state.finished(), 1u);
  EXPECT_EQ(state.epoch(), kEpoch + 5);
}

// Goal: a rollback forgets what was prepared and how later steps had ended.
TEST(Commit, RollbackForgetsTheStepsAfterIt) {
  CommitState state = Recovered();
  for (int i = 0; i < 3; ++i) RunStep(state, Ended::kDropped);
  ASSERT_TRUE(state.Prepare({kEpoch, 4}, true).ok());
  ASSERT_TRUE(state.Rollback({kEpoch + 1, 2}).ok());
  EXPECT_EQ(state.Finish({kEpoch + 1, 3}, Ended::kApplied).status().code(), Code::kNotYet);
  EXPECT_EQ(state.Finish({kEpoch + 1, 4}, Ended::kApplied).status().code(), Code::kNotYet);
  RunStep(state, Ended::kApplied);
  EXPECT_EQ(state.Finish({kEpoch + 1, 3}, Ended::kDropped).value().ended, Ended::kApplied);
  EXPECT_EQ(state.Finish({kEpoch, 3}, Ended::kDropped).status().code(), Code::kWrongEpoch);
}

}  // namespace
}  // namespace mf
