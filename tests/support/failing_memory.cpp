#include "tests/support/failing_memory.h"

#include "common/base/check.h"
#include "common/run/json_memory.h"

namespace mf {
namespace {

struct Countdown {
  bool armed = false, for_good = false, failed = false;
  int unlimited = 0;  // holders
  uint64_t left = 0;
};
thread_local Countdown t_countdown;

}  // namespace

FailingMemory::FailingMemory(uint64_t spared, Ends ends) {
  MF_CHECK(!t_countdown.armed);
  t_countdown = {.armed = true, .for_good = ends == Ends::kForGood, .left = spared};
}
FailingMemory::~FailingMemory() { t_countdown.armed = false; }
bool FailingMemory::failed() const { return t_countdown.failed; }

UnlimitedMemory::UnlimitedMemory() { ++t_countdown.unlimited; }
UnlimitedMemory::~UnlimitedMemory() { --t_countdown.unlimited; }

bool MemoryEnds() noexcept {
  Countdown& now = t_countdown;
  if (!now.armed || now.unlimited > 0 || JsonMemory::held()) return false;
  if (now.left > 0) {
    --now.left;
    return false;
  }
  const bool first = !now.failed;
  now.failed = true;
  return first || now.for_good;
}

}  // namespace mf
