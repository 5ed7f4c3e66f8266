// Runs many seeded schedules of whole runs with faults (world.h) and checks what must hold in each.
//
//   simulation_test [--memory-ends] [--first S] [--seeds N] [--failures F]
//                               schedules S ... S + N - 1; ends at the F-th (5th) failing one. The
//                               first is told with its last events. Fails, too, if a kind of event
//                               was never met
//   simulation_test [--memory-ends] --seed S    one schedule, with its last events
// With --memory-ends servers run out of memory now and then, at any allocation.
#include <spdlog/spdlog.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/simulation/world.h"

namespace mf::simulation {
namespace {

constexpr uint64_t kReplayEvery = 50;          // schedules that are run twice
constexpr uint64_t kSeedsForAllEvents = 2000;  // from so many on every kind of event must be met

/// Runs it again with its events told.
void Tell(uint64_t seed, World::Options options) {
  options.trace = true;
  World world(seed, options);
  const std::string failure = world.Run();
  std::printf("seed %llu: %s\n", static_cast<unsigned long long>(seed), world.Describe().c_str());
  for (const std::string& line : world.trace()) std::printf("  %s\n", line.c_str());
  std::printf("seed %llu: %s (%llu events, digest %016llx)\n",
              static_cast<unsigned long long>(seed),
              failure.empty() ? "all is well" : failure.c_str(),
              static_cast<unsigned long long>(world.events()),
              static_cast<unsigned long long>(world.digest()));
}

int RunMany(uint64_t first, uint64_t seeds, int failures_max, const World::Options& options) {
  const auto start = std::chrono::steady_clock::now();
  Tally tally;
  uint64_t events = 0;
  double simulated = 0, longest = 0;
  int failures = 0;
  for (uint64_t seed = first; seed < first + seeds; ++seed) {
    World world(seed, options);
    std::string failure = world.Run();
    if (failure.empty() && seed % kReplayEvery == 0) {
      World again(seed, options);
      (void)again.Run();
      if (again.digest() != world.digest()) failure = "does not replay";
    }
    tally.Add(world.tally());
    events += world.events();
    simulated += world.now();
    longest = std::max(longest, world.seconds_to_finish());
    if (failure.empty()) continue;
    std::printf("seed %llu: %s\n", static_cast<unsigned long long>(seed), failure.c_str());
    if (failures++ == 0) Tell(seed, options);
    if (failures == failures_max) break;
  }
  for (size_t i = 0; i < tally.counts().size(); ++i) {
    std::printf("%12llu %s\n", static_cast<unsigned long long>(tally.counts()[i]), kSeenNames[i]);
    const Seen seen = static_cast<Seen>(i);
    const bool of_memory = seen == Seen::kMemoryEnded || seen == Seen::kStateLost;
    if (of_memory && !options.memory_ends) continue;
    if (tally.counts()[i] == 0 && seeds >= kSeedsForAllEvents) {
      std::printf("never happened: %s\n", kSeenNames[i]);
      ++failures;
    }
  }
  std::printf(
      "%llu schedules from seed %llu, %llu events, %.0f simulated seconds in %.1f s; at most "
      "%.1f simulated seconds from the last fault to the end; %d failures\n",
      static_cast<unsigned long long>(seeds), static_cast<unsigned long long>(first),
      static_cast<unsigned long long>(events), simulated,
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), longest,
      failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace mf::simulation

int main(int argc, char** argv) {
  uint64_t first = 0, seeds = 500;
  int failures_max = 5;
  mf::simulation::World::Options options;
  spdlog::set_level(spdlog::level::off);
  int at = 1;
  if (argc > 1 && std::strcmp(argv[1], "--memory-ends") == 0) {
    options.memory_ends = true;
    ++at;
  }
  for (int i = at; i + 1 < argc; i += 2) {
    const uint64_t value = std::strtoull(argv[i + 1], nullptr, 10);
    if (std::strcmp(argv[i], "--first") == 0) {
      first = value;
    } else if (std::strcmp(argv[i], "--seeds") == 0) {
      seeds = value;
    } else if (std::strcmp(argv[i], "--failures") == 0) {
      failures_max = static_cast<int>(value);
    } else if (std::strcmp(argv[i], "--seed") == 0) {
      mf::simulation::Tell(value, options);
      return 0;
    } else {
      std::fprintf(stderr,
                   "usage: simulation_test [--memory-ends] [--first S] [--seeds N] [--failures F] "
                   "| --seed S\n");
      return 2;
    }
  }
  return mf::simulation::RunMany(first, seeds, failures_max, options);
}
