#include "worker/compute/cuda/bandwidth.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "worker/compute/cuda/lane.h"
#include "worker/compute/cuda/memory.h"

namespace mf::cuda {
namespace {

constexpr size_t kBytes = size_t{64} << 20;

/// GB/s of the best of three copies.
double Rate(const Stream& stream, void* to, const void* from, cudaMemcpyKind kind) {
  double best = 0;
  for (int run = 0; run < 3; ++run) {
    const auto start = std::chrono::steady_clock::now();
    Check(cudaMemcpyAsync(to, from, kBytes, kind, stream.get()), "copy");
    stream.Wait();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(kBytes) / took.count() / 1e9);
  }
  return best;
}

}  // namespace

std::string MeasureCopies() {
  const Stream stream;
  PinnedPool pinned;
  const Buffer host = pinned.Take(kBytes);
  const DeviceMemory a(kBytes, "a measurement"), b(kBytes, "a measurement");
  const double up = Rate(stream, a.data(), host.data(), cudaMemcpyHostToDevice);
  const double within = 2 * Rate(stream, b.data(), a.data(), cudaMemcpyDeviceToDevice);
  const double down = Rate(stream, host.data(), b.data(), cudaMemcpyDeviceToHost);
  char text[128];
  std::snprintf(text, sizeof(text), "%.0f GB/s to the GPU, %.0f GB/s from it, %.0f GB/s within", up,
                down, within);
  return text;
}

}  // namespace mf::cuda
