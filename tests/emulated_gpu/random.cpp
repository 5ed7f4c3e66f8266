#include "tests/emulated_gpu/random.h"

#include <cstdio>
#include <cstdlib>
#include <random>

#include "common/base/mutex.h"
#include "emulated_gpu/control.h"

namespace mf::emulated_gpu {
namespace {

struct State {
  Mutex mutex;
  uint64_t seed MF_GUARDED_BY(mutex);
  uint64_t drawn MF_GUARDED_BY(mutex) = 0;

  State() {
    const char* given = std::getenv("MF_EMULATED_GPU_SEED");
    seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
    std::fprintf(stderr, "emulated GPU: MF_EMULATED_GPU_SEED=%llu\n",
                 static_cast<unsigned long long>(seed));
  }
};

State& TheState() {
  static State* const state = new State;  // outlives all static objects that use the GPU
  return *state;
}

}  // namespace

uint64_t Seed() {
  State& state = TheState();
  MutexLock lock(state.mutex);
  return state.seed;
}

void SetSeed(uint64_t seed) {
  State& state = TheState();
  MutexLock lock(state.mutex);
  state.seed = seed;
  state.drawn = 0;
}

Dice NextDice() {
  State& state = TheState();
  MutexLock lock(state.mutex);
  Dice mixed(state.seed ^ ++state.drawn << 32);
  return Dice(mixed.Next());
}

}  // namespace mf::emulated_gpu
