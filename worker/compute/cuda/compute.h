// The model on a GPU (Compute for CUDA). One process uses one GPU, the first that CUDA shows it:
// several GPUs are several workers, each with its own CUDA_VISIBLE_DEVICES.
#pragma once

#include <memory>
#include <vector>

#include "worker/compute/compute.h"

namespace mf::cuda {

/// Whether this process has a GPU that can train this model; if not, why.
Status CheckDevice(const Config& config, const std::vector<TensorSpec>& tensors);

/// kFailed or kInvalid, as CheckDevice says, or if there is no memory for what is kept on the GPU.
/// Arguments outlive the result.
Result<std::unique_ptr<Compute>> MakeCudaCompute(const Config& config,
                                                 const std::vector<TensorSpec>& tensors);

}  // namespace mf::cuda
