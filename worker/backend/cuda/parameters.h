// The dense tensors of a step on the GPU: uploaded once, shared by all micro-batches of the step.
#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <mutex>
#include <vector>

#include "worker/backend/cuda/memory.h"
#include "worker/compute.h"

namespace mf::cuda {

/// One state of the dense tensors.
class DeviceParameters {
 public:
  /// Copies `host` on `stream` and waits for it. Throws CudaError.
  DeviceParameters(Compute::Parameters host, cudaStream_t stream);

  const float* At(int id) const { return tensors_[static_cast<size_t>(id)]; }
  /// Whether this is a copy of `host`: compared by identity, and kept alive for that.
  bool CopyOf(const Compute::Parameters& host) const { return host_ == host; }

 private:
  Compute::Parameters host_;
  DeviceMemory memory_;
  std::vector<float*> tensors_;  // by id; nullptr for memory tensors
};

/// The newest state. Thread-safe.
class ParameterCache {
 public:
  ParameterCache();
  ~ParameterCache();
  ParameterCache(const ParameterCache&) = delete;
  ParameterCache& operator=(const ParameterCache&) = delete;

  /// `host` on the GPU; whoever asks first uploads, others wait. Throws CudaError.
  std::shared_ptr<const DeviceParameters> Get(const Compute::Parameters& host);

 private:
  std::mutex mutex_;
  cudaStream_t stream_ = nullptr;
  std::shared_ptr<const DeviceParameters> newest_;  // guarded by mutex_
};

}  // namespace mf::cuda
