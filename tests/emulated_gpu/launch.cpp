#include "emulated_gpu/launch.h"

#include <map>
#include <utility>

#include "common/base/mutex.h"
#include "tests/emulated_gpu/block.h"
#include "tests/emulated_gpu/device.h"
#include "tests/emulated_gpu/streams.h"

namespace mf::emulated_gpu {
namespace {

constexpr size_t kSharedUnasked = 48 * 1024;
constexpr unsigned kMaxBlocksX = 0x7FFFFFFF;
constexpr unsigned kMaxBlocksYZ = 0xFFFF;
constexpr unsigned kMaxThreadsZ = 64;

/// How much shared memory kernels were allowed to have.
struct Limits {
  Mutex mutex;
  std::map<const void*, size_t> shared MF_GUARDED_BY(mutex);
};

Limits& TheLimits() {
  static Limits* const limits = new Limits;
  return *limits;
}

size_t SharedLimit(const void* kernel) {
  Limits& limits = TheLimits();
  MutexLock lock(limits.mutex);
  const auto found = limits.shared.find(kernel);
  return found == limits.shared.end() ? kSharedUnasked : std::max(found->second, kSharedUnasked);
}

bool ShapeIsValid(const dim3& blocks, const dim3& threads) {
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0) return false;
  if (blocks.x > kMaxBlocksX || blocks.y > kMaxBlocksYZ || blocks.z > kMaxBlocksYZ) return false;
  if (threads.x == 0 || threads.y == 0 || threads.z == 0 || threads.z > kMaxThreadsZ) return false;
  return threads.x <= kMaxThreads && threads.y <= kMaxThreads &&
         threads.x * threads.y * threads.z <= kMaxThreads;
}

}  // namespace

cudaError_t LaunchKernel(const cudaLaunchConfig_t& config, const void* kernel,
                         std::function<void()> thread) {
  if (kernel == nullptr) return Failed(cudaErrorInvalidDeviceFunction);
  if (!ShapeIsValid(config.gridDim, config.blockDim)) return Failed(cudaErrorInvalidConfiguration);
  if (config.dynamicSmemBytes > SharedLimit(kernel)) return Failed(cudaErrorInvalidValue);
  Grid grid{kernel, config.gridDim, config.blockDim, config.dynamicSmemBytes, std::move(thread)};
  return Enqueue(config.stream, [grid = std::move(grid)] { RunGrid(grid, NextDice()); });
}

}  // namespace mf::emulated_gpu

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  using namespace mf::emulated_gpu;
  if (function == nullptr) return Failed(cudaErrorInvalidDeviceFunction);
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
      static_cast<size_t>(value) > kMaxSharedBytes) {
    return Failed(cudaErrorInvalidValue);
  }
  Limits& limits = TheLimits();
  mf::MutexLock lock(limits.mutex);
  limits.shared[function] = static_cast<size_t>(value);
  return cudaSuccess;
}
