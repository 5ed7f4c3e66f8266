// Memory that ends in servers (World::Options::memory_ends).
#include "common/base/buffer_pool.h"
#include "tests/simulation/world.h"
#include "tests/support/failing_memory.h"

namespace mf::simulation {
namespace {
constexpr double kMemoryEnds = 0.01;  // chance, of a piece of a server's work
}  // namespace

void World::InMemory(const std::function<void()>& work) {
  if (!memory_ends_ || !faults_ || !memory_dice_.Chance(kMemoryEnds)) return work();
  const uint64_t spared = memory_dice_.Below(memory_dice_.Of({1, 8, 64, 512}));
  const FailingMemory memory(spared, memory_dice_.Chance(0.5) ? FailingMemory::Ends::kOnce
                                                              : FailingMemory::Ends::kForGood);
  EmptyPool();
  work();
  if (!memory.failed()) return;
  const UnlimitedMemory ours;
  Count(Seen::kMemoryEnded);
  if (tracing_) Trace("memory ended in it, after " + std::to_string(spared) + " allocations");
}

bool World::RestartIfLost(size_t index) {
  if (!servers_[index].shard->lost()) return false;
  Count(Seen::kStateLost);
  KillServer(index, memory_dice_.Between(0, 0.2));
  return true;
}

}  // namespace mf::simulation
