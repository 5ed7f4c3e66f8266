// The one place that knows all backends.
#include "common/base/logging.h"
#include "worker/compute/compute.h"
#include "worker/compute/cpu_compute.h"
#ifdef MF_CUDA
#include "worker/compute/cuda/compute.h"
#endif

namespace mf {

Result<std::unique_ptr<Compute>> MakeCompute(Backend backend, const Config& config,
                                             const std::vector<TensorSpec>& tensors,
                                             ThreadPool& pool) {
#ifdef MF_CUDA
  if (backend != Backend::kCpu) {
    const Status usable = cuda::CheckDevice(config, tensors);
    if (usable.ok()) return cuda::MakeCudaCompute(config, tensors);
    if (backend == Backend::kCuda) {
      return Status(usable.code(), "--backend cuda: " + usable.message());
    }
    spdlog::info("--backend auto: {}", usable.message());
  }
#else
  if (backend == Backend::kCuda) {
    return Status::Failed(
        "--backend cuda: this program was built without it; build with cmake --preset cuda, or use "
        "--backend cpu");
  }
#endif
  return std::unique_ptr<Compute>(std::make_unique<CpuCompute>(config, tensors, pool));
}

}  // namespace mf
