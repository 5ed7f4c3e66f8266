// Work that waits for the host to synchronise.
#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "emulated_gpu/host_api.h"

namespace mf::emulated_gpu {

/// A point in a stream's work; an event is the last one that was recorded with it.
struct Point {
  bool reached = false;
  std::chrono::steady_clock::time_point at;
};

/// Queues `work`. cudaErrorInvalidResourceHandle for a stream that there is not. Any thread.
cudaError_t Enqueue(cudaStream_t stream, std::function<void()> work);
/// Runs work until all that was queued on `stream` before has run; other streams' work may run,
/// too.
cudaError_t Synchronize(cudaStream_t stream);
/// The same for all streams.
void SynchronizeAll();

}  // namespace mf::emulated_gpu
