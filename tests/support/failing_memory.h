// Memory that ends where a test says so: for programs that are linked with
// tests/support/memory/failing_new.cpp, which puts this before `operator new` and mmap().
#pragma once

#include <cstdint>

namespace mf {

/// While it lives, the allocations of this thread are counted, and the one after the first `spared`
/// fails: it alone, or all from then on. One at a time.
class FailingMemory {
 public:
  enum class Ends { kOnce, kForGood };
  FailingMemory(uint64_t spared, Ends ends);
  ~FailingMemory();
  FailingMemory(const FailingMemory&) = delete;

  /// One has failed.
  bool failed() const;
};

/// While it lives, nothing of this thread counts or fails: what stands for other machines has
/// memory.
class UnlimitedMemory {
 public:
  UnlimitedMemory();
  ~UnlimitedMemory();
  UnlimitedMemory(const UnlimitedMemory&) = delete;
};

/// Called before memory is taken: whether it has to fail.
bool MemoryEnds() noexcept;

}  // namespace mf
