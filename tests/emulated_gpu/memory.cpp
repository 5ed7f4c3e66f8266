#include "tests/emulated_gpu/memory.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>

#include "common/base/mutex.h"
#include "tests/emulated_gpu/device.h"
#include "tests/emulated_gpu/streams.h"

namespace mf::emulated_gpu {
namespace {

constexpr size_t kAlignment = 256;  // cudaMalloc()'s
constexpr int kPoison = 0xFF;       // a NaN in floats

/// Sizes of allocations by address.
struct Records {
  Mutex mutex;
  std::map<uintptr_t, size_t> device MF_GUARDED_BY(mutex);
  std::map<uintptr_t, size_t> host MF_GUARDED_BY(mutex);
  size_t device_bytes MF_GUARDED_BY(mutex) = 0;
};

Records& TheRecords() {
  static Records* const records = new Records;  // outlives all static objects that use the GPU
  return *records;
}

uintptr_t Address(const void* at) { return reinterpret_cast<uintptr_t>(at); }

/// Poisoned memory; null if there is none.
void* NewMemory(size_t bytes) {
  void* at = nullptr;
  if (posix_memalign(&at, kAlignment, bytes) != 0) return nullptr;
  std::memset(at, kPoison, bytes);
  return at;
}

/// Forgets and frees an allocation, all work having run. 0 if there is none at `at`.
size_t FreeOf(std::map<uintptr_t, size_t>& sizes, void* at) {
  const auto found = sizes.find(Address(at));
  if (found == sizes.end()) return 0;
  const size_t bytes = found->second;
  sizes.erase(found);
  std::memset(at, kPoison, bytes);
  // The compiler may not drop the poisoning: whoever still reads this shall see it.
  asm volatile("" : : "r"(at) : "memory");
  std::free(at);
  return bytes;
}

/// Whether a copy's side that should be in the GPU's memory is.
bool CopyIsValid(const void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (to_device && !InDeviceMemory(to, bytes)) return false;
  return !from_device || InDeviceMemory(from, bytes);
}

}  // namespace

size_t DeviceBytes() {
  const char* given = std::getenv("MF_EMULATED_GPU_BYTES");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : size_t{8} << 30;
}

bool InDeviceMemory(const void* from, size_t bytes) {
  Records& records = TheRecords();
  MutexLock lock(records.mutex);
  auto after = records.device.upper_bound(Address(from));
  if (after == records.device.begin()) return false;
  --after;
  return Address(from) - after->first <= after->second &&
         bytes <= after->second - (Address(from) - after->first);
}

}  // namespace mf::emulated_gpu

using namespace mf::emulated_gpu;  // NOLINT: the functions below are the emulator's, but global

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  Records& records = TheRecords();
  mf::MutexLock lock(records.mutex);
  *total_bytes = DeviceBytes();
  *free_bytes = *total_bytes > records.device_bytes ? *total_bytes - records.device_bytes : 0;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** at, size_t bytes) {
  if (at == nullptr) return Failed(cudaErrorInvalidValue);
  *at = nullptr;
  if (bytes == 0) return cudaSuccess;
  Records& records = TheRecords();
  mf::MutexLock lock(records.mutex);
  if (records.device_bytes > DeviceBytes() || bytes > DeviceBytes() - records.device_bytes) {
    return Failed(cudaErrorMemoryAllocation);
  }
  *at = NewMemory(bytes);
  if (*at == nullptr) return Failed(cudaErrorMemoryAllocation);
  records.device[Address(*at)] = bytes;
  records.device_bytes += bytes;
  return cudaSuccess;
}

cudaError_t cudaFree(void* at) {
  if (at == nullptr) return cudaSuccess;
  SynchronizeAll();
  Records& records = TheRecords();
  mf::MutexLock lock(records.mutex);
  const size_t bytes = FreeOf(records.device, at);
  if (bytes == 0) return Failed(cudaErrorInvalidValue);
  records.device_bytes -= bytes;
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** at, size_t bytes, unsigned /*flags*/) {
  if (at == nullptr) return Failed(cudaErrorInvalidValue);
  *at = nullptr;
  if (bytes == 0) return cudaSuccess;
  *at = NewMemory(bytes);
  if (*at == nullptr) return Failed(cudaErrorMemoryAllocation);
  Records& records = TheRecords();
  mf::MutexLock lock(records.mutex);
  records.host[Address(*at)] = bytes;
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** at, size_t bytes, unsigned flags) {
  return cudaHostAlloc(at, bytes, flags);
}

cudaError_t cudaFreeHost(void* at) {
  if (at == nullptr) return cudaSuccess;
  SynchronizeAll();
  Records& records = TheRecords();
  mf::MutexLock lock(records.mutex);
  return FreeOf(records.host, at) > 0 ? cudaSuccess : Failed(cudaErrorInvalidValue);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  if (!CopyIsValid(to, from, bytes, kind)) return Failed(cudaErrorInvalidValue);
  return Enqueue(stream, [to, from, bytes] { std::memmove(to, from, bytes); });
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return error == cudaSuccess ? Synchronize(nullptr) : error;
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  if (!InDeviceMemory(to, bytes)) return Failed(cudaErrorInvalidValue);
  return Enqueue(stream, [to, value, bytes] { std::memset(to, value, bytes); });
}

cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  return cudaMemsetAsync(to, value, bytes, nullptr);
}
