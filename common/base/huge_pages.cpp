#include "common/base/huge_pages.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

namespace mf {

void* MapHugePages(size_t bytes) {
  // A mapping begins at any small page: one huge page more is asked for, and what lies around the
  // aligned part is given back.
  void* const mapped = mmap(nullptr, bytes + kHugePageBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  auto* const begin = static_cast<std::byte*>(mapped);
  const size_t before = -reinterpret_cast<uintptr_t>(begin) % kHugePageBytes;
  if (before > 0) munmap(begin, before);
  munmap(begin + before + bytes, kHugePageBytes - before);
  (void)madvise(begin + before, bytes, MADV_HUGEPAGE);  // without them it is slower, that is all
  return begin + before;
}

}  // namespace mf
