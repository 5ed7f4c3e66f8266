// A coordinator under test.
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>

#include "pserver/coordinator/coordinator.h"

namespace mf {

inline constexpr int64_t kTokens = 100;  // per step of 4 micro-batches
inline constexpr double kLease = 10;

inline RunRules SmallRun(int64_t steps = 20, int64_t micro_batches = 4) {
  return {.steps = steps,
          .micro_batches = micro_batches,
          .tokens_per_micro_batch = kTokens / 4,
          .lease_seconds = kLease,
          .eval_every = 0};
}

constexpr uint64_t Epoch(uint64_t boot, uint64_t counter) { return boot << 32 | counter; }

/// A coordinator with a clock. Asks carry rising tickets; answers to earlier, waiting asks are kept
/// apart.
class Desk {
 public:
  explicit Desk(const RunRules& rules, uint64_t boot = 1)
      : rules_(rules), coordinator(rules, boot) {}

  /// Asks; the ticket's grant if it was answered at once.
  std::optional<Grant> TryAsk(uint64_t session, uint64_t known_step = 0) {
    const uint64_t ticket = ++tickets_;
    std::optional<Grant> own;
    for (Grant& grant : coordinator.Ask(ticket, session, known_step, now)) {
      if (grant.ticket == ticket) {
        own = std::move(grant);
      } else {
        late.push_back(std::move(grant));
      }
    }
    return own;
  }
  Grant Ask(uint64_t session, uint64_t known_step = 0) {
    const std::optional<Grant> grant = TryAsk(session, known_step);
    EXPECT_TRUE(grant.has_value()) << "the ask was waiting";
    return grant.value_or(Grant());
  }
  Grant AskFor(Work work, uint64_t session = 1) {
    const Grant grant = Ask(session);
    EXPECT_EQ(static_cast<int>(grant.work), static_cast<int>(work));
    return grant;
  }

  Code Done(uint32_t number, double loss = 1) {
    return Done(coordinator.epoch(), coordinator.step(), number, loss);
  }
  Code Done(uint64_t epoch, uint64_t step, uint32_t number, double loss = 1) {
    return Keep([&](auto* g) {
      return coordinator.MicroBatchDone({{epoch, step}, number, loss}, now, g);
    });
  }
  Code End(bool applied = true, const std::string& name = "") {
    return End(coordinator.epoch(), coordinator.step(), applied, name);
  }
  Code End(uint64_t epoch, uint64_t step, bool applied = true, const std::string& name = "") {
    return Keep([&](auto* g) {
      return coordinator.StepEnded({{epoch, step}, applied, 0.5, name, false}, now, g);
    });
  }
  Code Evaluated(uint64_t epoch, uint64_t step, double loss) {
    return Keep([&](auto* g) { return coordinator.Evaluated({{epoch, step}, loss}, now, g); });
  }
  Code Recovered(uint64_t epoch, uint64_t step, bool ok = true, uint64_t seen = 0) {
    return Keep([&](auto* g) {
      return coordinator.Recovered({{epoch, step}, ok, seen, {}}, now, g);
    });
  }
  void StartRecovery() {
    for (Grant& grant : coordinator.StartRecovery(now)) late.push_back(std::move(grant));
  }
  void Tick(double seconds) {
    now += seconds;
    for (Grant& grant : coordinator.Tick(now)) late.push_back(std::move(grant));
  }

  /// Session 1 leads the run through recovery to the state after `step` steps.
  void Recover(uint64_t step = 0) {
    const Grant grant = AskFor(Work::kRecover);
    EXPECT_EQ(Recovered(grant.epoch, step), Code::kOk);
  }
  void AllDone(double loss = 1) {
    for (uint32_t i = 0; i < rules_.micro_batches; ++i) EXPECT_EQ(Done(i, loss), Code::kOk);
  }
  void RunStep(bool applied = true, const std::string& name = "") {
    AllDone();
    AskFor(Work::kCommit);
    EXPECT_EQ(End(applied, name), Code::kOk);
  }

 private:
  template <class Call>
  Code Keep(Call call) {
    Coordinator::Grants grants;
    const Status status = call(&grants);
    for (Grant& grant : grants) late.push_back(std::move(grant));
    return status.code();
  }

  const RunRules rules_;
  uint64_t tickets_ = 0;

 public:
  Coordinator coordinator;
  double now = 100;
  Coordinator::Grants late;  // answers to waiting asks
};

}  // namespace mf
