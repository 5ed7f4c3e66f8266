// The model on a GPU (Compute for CUDA). One process uses one GPU, the first that CUDA shows it:
// several GPUs are several workers, each with its own CUDA_VISIBLE_DEVICES.
#pragma once

#include <memory>
#include <vector>

#include "worker/compute.h"

namespace mf::cuda {

/// GPUs that this process can use; 0 without a driver.
int DeviceCount();

/// kFailed if there is no GPU, or the model has a shape that the kernels do not take. Arguments
/// outlive the result.
Result<std::unique_ptr<Compute>> MakeCudaCompute(const Config& config,
                                                 const std::vector<TensorSpec>& tensors);

}  // namespace mf::cuda
