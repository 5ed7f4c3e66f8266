#include "tests/emulated_gpu/fiber.h"

#include <memory>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace mf::emulated_gpu {
namespace {

// The scheduler's side: one scheduler runs at a time.
#if defined(__SANITIZE_ADDRESS__)
void* g_scheduler_fake_stack = nullptr;
const void* g_scheduler_stack = nullptr;
size_t g_scheduler_stack_bytes = 0;
#endif
#if defined(__SANITIZE_THREAD__)
void* g_scheduler_tsan_fiber = nullptr;
#endif

}  // namespace

Fiber::Fiber(Body body, void* argument)
    : body_(body), argument_(argument), stack_(allocator_.allocate()) {
  // Stacks that all begin at the same place of a page would fight for the same lines of the cache.
  static size_t made = 0;
  const size_t skipped = made++ % 16 * 256;
  stack_.sp = static_cast<char*>(stack_.sp) - skipped;
  stack_.size -= skipped;
#if defined(__SANITIZE_THREAD__)
  tsan_fiber_ = __tsan_create_fiber(0);
#endif
  self_ = boost::context::fiber(std::allocator_arg,
                                boost::context::preallocated(stack_.sp, stack_.size, stack_),
                                allocator_, [this](boost::context::fiber&& scheduler) {
                                  scheduler_ = std::move(scheduler);
                                  Enter();
                                  return boost::context::fiber();  // never
                                });
}

void Fiber::Enter() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &g_scheduler_stack, &g_scheduler_stack_bytes);
#endif
  for (;;) {
    body_(argument_);
    Wait();
  }
}

void Fiber::Resume() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&g_scheduler_fake_stack,
                                 static_cast<const char*>(stack_.sp) - stack_.size, stack_.size);
#endif
#if defined(__SANITIZE_THREAD__)
  g_scheduler_tsan_fiber = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(tsan_fiber_, 0);
#endif
  self_ = std::move(self_).resume();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(g_scheduler_fake_stack, nullptr, nullptr);
#endif
}

void Fiber::Wait() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&fake_stack_, g_scheduler_stack, g_scheduler_stack_bytes);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(g_scheduler_tsan_fiber, 0);
#endif
  scheduler_ = std::move(scheduler_).resume();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack_, &g_scheduler_stack, &g_scheduler_stack_bytes);
#endif
}

}  // namespace mf::emulated_gpu
