// OpenBLAS is used by one thread at a time (worker/compute/cpu/matmul.cpp), but starts a thread for
// every processor that its process may use when it is loaded, before main(), also for `--help`;
// where the system has no threads left it says so in two lines of its own. It is told by the
// environment, which is not ours to change before main(), or by the affinity: so what is loaded
// sees one processor, and main() all of them again.
//
// Newer ones (0.3.29, not 0.3.21) also take 128 MiB when they are loaded, and try for ever if there
// are none.
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>

namespace {

cpu_set_t g_allowed;  // empty: nothing was changed

void CheckMemory() {
  constexpr size_t kBytes = size_t{129} << 20;  // of address space
  void* const probe =
      mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (probe != MAP_FAILED) {
    munmap(probe, kBytes);
    return;
  }
  constexpr char kWords[] =
      "error: out of memory: the library of matrix products needs 128 MiB when it is loaded; give "
      "this process more (ulimit -v)\n";
  (void)!write(STDERR_FILENO, kWords, sizeof kWords - 1);
  _exit(1);
}

/// Before the initialisers of all libraries, so it may call nothing but the system.
void BeforeLibraries() {
  CheckMemory();
  if (sched_getaffinity(0, sizeof g_allowed, &g_allowed) != 0) {
    CPU_ZERO(&g_allowed);  // more processors than the set has room for
    return;
  }
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++i) {
    if (CPU_ISSET(i, &g_allowed)) CPU_SET(i, &one);
  }
  if (sched_setaffinity(0, sizeof one, &one) != 0) CPU_ZERO(&g_allowed);
}

/// After them: the program's own initialisers are the last.
__attribute__((constructor)) void ShowAllProcessors() {
  if (CPU_COUNT(&g_allowed) > 0) (void)sched_setaffinity(0, sizeof g_allowed, &g_allowed);
}

__attribute__((section(".preinit_array"), used)) void (*g_before_libraries)() = &BeforeLibraries;

}  // namespace
