// One thread of the GPU as a fiber, with what AddressSanitizer and ThreadSanitizer must be told.
#pragma once

#include <boost/context/fiber.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>
#include <cstddef>

namespace mf::emulated_gpu {

/// Runs `body(argument)` again and again, each time that it is asked to start. The stack is kept
/// between runs and ends in a page that cannot be touched. Used by one host thread at a time.
class Fiber {
 public:
  using Body = void (*)(void* argument);
  Fiber(Body body, void* argument);
  ~Fiber() = delete;  // kept for the whole life of the process
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Goes on with this fiber, from the scheduler, until it waits or `body` has returned.
  void Resume();
  /// Back to the scheduler, from within this fiber.
  void Wait();

 private:
  void Enter();

  static constexpr size_t kStackBytes = 256 * 1024;
  Body body_;
  void* argument_;
  boost::context::protected_fixedsize_stack allocator_{kStackBytes};
  boost::context::stack_context stack_;
  boost::context::fiber self_;       // where to go on here
  boost::context::fiber scheduler_;  // where to go on there
  // Used under the sanitizers of these names only.
  [[maybe_unused]] void* fake_stack_ = nullptr;  // AddressSanitizer's
  [[maybe_unused]] void* tsan_fiber_ = nullptr;
};

}  // namespace mf::emulated_gpu
