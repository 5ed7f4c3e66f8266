#include "tests/emulated_gpu/shared_memory.h"

#include <algorithm>
#include <cstring>

#include "cuda_runtime.h"
#include "tests/emulated_gpu/block.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace mf::cuda {

// Declared, without a size, by worker/compute/cuda/kernels/device_code.h. One guard's size more
// than a block can have.
extern float4 dynamic_shared_memory[];
alignas(256) float4 dynamic_shared_memory[(emulated_gpu::kMaxSharedBytes + 4096) / sizeof(float4)];

}  // namespace mf::cuda

namespace mf::emulated_gpu {
namespace {

constexpr size_t kAll = sizeof(cuda::dynamic_shared_memory);
constexpr unsigned char kGuard = 0xC3;
constexpr unsigned char kUnwritten = 0xFF;

unsigned char* Bytes() { return reinterpret_cast<unsigned char*>(cuda::dynamic_shared_memory); }

}  // namespace

void PrepareSharedMemory(size_t bytes) {
  static size_t guarded_from = kAll;  // what a smaller block before left behind
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(Bytes(), kAll);
#endif
  std::memset(Bytes(), kUnwritten, bytes);
  if (bytes < guarded_from) std::memset(Bytes() + bytes, kGuard, guarded_from - bytes);
  guarded_from = bytes;
#if defined(__SANITIZE_ADDRESS__)
  // A write beyond the end is then reported where it happens.
  __asan_poison_memory_region(Bytes() + bytes, kAll - bytes);
#endif
}

void CheckSharedMemory(size_t bytes, size_t beyond) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(Bytes(), kAll);
#endif
  const size_t checked = std::min(beyond, kAll - bytes);
  // All bytes are the guard if the first is, and each is like the one before.
  if (Bytes()[bytes] == kGuard &&
      std::memcmp(Bytes() + bytes, Bytes() + bytes + 1, checked - 1) == 0) {
    return;
  }
  size_t at = bytes;
  while (Bytes()[at] == kGuard) ++at;
  Fault("shared memory of %zu bytes was written at byte %zu", bytes, at);
}

}  // namespace mf::emulated_gpu
