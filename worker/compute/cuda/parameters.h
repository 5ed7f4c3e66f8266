// The dense tensors of a step on the GPU: uploaded once, shared by all micro-batches of the step.
#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <vector>

#include "common/base/mutex.h"
#include "common/run/tensor_spec.h"
#include "worker/compute/compute.h"
#include "worker/compute/cuda/memory.h"

namespace mf::cuda {

/// One state of the dense tensors.
struct DeviceParameters {
  Compute::Parameters host;     // compared by identity, and kept alive for that
  std::vector<float*> tensors;  // by id; nullptr for memory tensors

  const float* At(int id) const { return tensors[static_cast<size_t>(id)]; }
};

/// The newest state. Thread-safe.
class ParameterCache {
 public:
  /// Takes the memory for two states, the one that begins and the one that ends: a run does not end
  /// for want of it. Throws CudaError.
  explicit ParameterCache(const std::vector<TensorSpec>& tensors);
  ~ParameterCache();
  ParameterCache(const ParameterCache&) = delete;
  ParameterCache& operator=(const ParameterCache&) = delete;

  /// `host` on the GPU; whoever asks first uploads, others wait. Nothing on the GPU reads it any
  /// more when its last owner lets it go. Throws CudaError.
  std::shared_ptr<const DeviceParameters> Get(const Compute::Parameters& host);

 private:
  /// Memory of states that nobody uses.
  struct Blocks {
    Mutex mutex;
    std::vector<DeviceMemory> free MF_GUARDED_BY(mutex);
  };
  DeviceMemory TakeBlock();

  const std::vector<TensorSpec>& tensors_;
  size_t bytes_ = 0;  // of a state
  std::shared_ptr<Blocks> blocks_ = std::make_shared<Blocks>();
  Mutex mutex_;
  cudaStream_t stream_ MF_GUARDED_BY(mutex_) = nullptr;  // of uploads
  std::shared_ptr<const DeviceParameters> newest_ MF_GUARDED_BY(mutex_);
};

}  // namespace mf::cuda
