// What kind of schedule a seed gives: the size of the run, and how much goes wrong in it.
#pragma once

#include <cstdint>
#include <set>

#include "tests/simulation/dice.h"
#include "tests/simulation/model.h"
#include "worker/config/config.h"

namespace mf::simulation {

struct Profile {
  explicit Profile(Dice& dice) {
    servers = static_cast<size_t>(dice.Of({1, 2, 2, 2, 3, 3, 4}));
    workers = 1 + dice.Below(4);
    lanes = dice.Of({1, 1, 2, 3});
    config = SmallestConfig(static_cast<int64_t>(servers), dice.Chance(0.25));
    config.exchange.mode = dice.Chance(0.7) ? ExchangeMode::kPushdown : ExchangeMode::kPull;
    config.train.steps = 5 + static_cast<int64_t>(dice.Below(5));
    config.train.micro_batches = dice.Of({1, 2, 2, 3});
    config.train.window = dice.Of({1, 2, 8});
    config.train.lease_seconds = dice.Of({0.3, 0.7, 1.5});
    config.train.eval_every = static_cast<int64_t>(dice.Below(4));
    config.snapshot.every_steps = 1 + static_cast<int64_t>(dice.Below(3));
    if (dice.Chance(0.2)) {
      config.snapshot.every_steps = 0;
      config.snapshot.every_minutes = dice.Of({0.0005, 0.003});  // a step or some
    }
    config.snapshot.keep = 1 + static_cast<int64_t>(dice.Below(2));
    for (uint64_t step = 1; step <= static_cast<uint64_t>(config.train.steps); ++step) {
      if (dice.Chance(0.15)) bad_steps.insert(step);
    }
    memory_bytes = dice.Chance(0.5) ? 0 : 1 << 30;
    drop = dice.Of({0.0, 0.0, 0.02, 0.08});
    duplicate = dice.Of({0.0, 0.03, 0.15});
    slow = dice.Of({0.0, 0.01, 0.04});
    slow_seconds = dice.Of({0.05, 1.0, 6.0});
    snapshot_seconds = dice.Of({0.002, 0.05, 0.6});
    slow_work = dice.Of({0.0, 0.02, 0.1});
    not_renewed = dice.Of({0.0, 0.1, 0.5});
    disk_trouble = dice.Of({0.0, 0.0, 0.1, 0.3});
    kills = dice.Below(10);
    spread = dice.Chance(0.7);
    hazard = dice.Of({0.0005, 0.002, 0.01});
    hot_hazard = dice.Of({0.0, 0.02, 0.06});
  }

  size_t servers = 1, workers = 1;
  int lanes = 1;
  Config config;
  std::set<uint64_t> bad_steps;
  uint64_t memory_bytes = 0;
  double drop = 0, duplicate = 0, slow = 0;  // of messages
  double slow_seconds = 0;                   // at most
  double snapshot_seconds = 0;               // at most
  double slow_work = 0;                      // of pieces of work: longer than a lease
  double not_renewed = 0;                    // of leases
  double disk_trouble = 0;                   // of snapshots
  uint64_t kills = 0;                        // kills, pauses and partitions in all
  bool spread = false;                       // over the steps, or all may come early
  double hazard = 0;                         // of an event: that one of them comes then
  double hot_hazard = 0;                     // the same around commits and recoveries
};

}  // namespace mf::simulation
