// `operator new` (hooked_new.h) and mmap() of a program fail where tests/support/failing_memory.h
// says so. The sanitizers have their own, and nothing fails under them.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define MF_SANITIZED
#endif
#endif
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(MF_SANITIZED)
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "tests/support/failing_memory.h"
#include "tests/support/memory/hooked_new.h"

bool mf::MayAllocate(size_t) noexcept { return !MemoryEnds(); }

extern "C" void* mmap(void* at, size_t bytes, int protection, int flags, int file,
                      off_t offset) noexcept {
  if ((flags & MAP_ANONYMOUS) != 0 && mf::MemoryEnds()) {
    errno = ENOMEM;
    return MAP_FAILED;
  }
  return reinterpret_cast<void*>(syscall(SYS_mmap, at, bytes, protection, flags, file, offset));
}
#endif
