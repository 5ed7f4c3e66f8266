#include "worker/compute/cuda/compute.h"

#include <algorithm>
#include <new>

#include "common/base/logging.h"
#include "worker/compute/cuda/bandwidth.h"
#include "worker/compute/cuda/device_pass.h"
#include "worker/compute/cuda/kernels/attention.h"
#include "worker/compute/cuda/kernels/hash.h"
#include "worker/compute/cuda/lane.h"
#include "worker/compute/cuda/parameters.h"

namespace mf::cuda {
namespace {

/// The border where exceptions of this folder become a Status.
template <class Body>
Status Guarded(const Body& body) {
  try {
    return body();
  } catch (const CudaError& error) {
    return Status::Failed(std::string("CUDA: ") + error.what());
  } catch (const std::bad_alloc&) {
    return Status::Failed(
        "no memory of the host is left for a micro-batch; lower train.batch or "
        "exchange.in_flight");
  }
}

/// Nothing of a micro-batch is on its stream any more when its buffers go, whatever happened.
struct Drain {
  cudaStream_t stream;
  ~Drain() { cudaStreamSynchronize(stream); }
};

/// One that the model takes and that a lane has room for.
Status CheckFits(const TokenBatch& batch, const Config& config, size_t most) {
  MF_RETURN_IF_ERROR(CheckBatch(config, batch, Targets::kNeeded));
  if (batch.tokens() <= most) return Status::Ok();
  return Status::Invalid("batch of " + std::to_string(batch.tokens()) +
                         " tokens: a micro-batch has " + std::to_string(most) +
                         " (train.batch sequences)");
}

class CudaCompute final : public Compute {
 public:
  CudaCompute(const Config& config, const std::vector<TensorSpec>& tensors)
      : model_(config, tensors), tables_(tensors), parameters_(tensors) {
    cudaDeviceProp properties;
    Check(cudaGetDeviceProperties(&properties, 0), "the GPU's properties");
    name_ = std::string(properties.name) + ", " + Gib(properties.totalGlobalMem);
    if (tables_.bytes() > 0) {
      spdlog::info("copies of tables take {} of the GPU's memory", Gib(tables_.bytes()));
    }
  }

  std::string Describe() const override {
    std::string copies;
    const Status measured = Guarded([&] {
      copies = MeasureCopies();
      return Status::Ok();
    });
    return name_ + "; copies: " + (measured.ok() ? copies : measured.message());
  }
  uint64_t device_bytes() const override { return DeviceMemory::TotalBytes(); }
  bool one_at_a_time() const override { return false; }
  void Forget() override { tables_.Forget(); }

  Result<std::unique_ptr<Workspace>> NewWorkspace() override {
    std::unique_ptr<Workspace> lane;
    const Status made = Guarded([&] {
      lane = std::make_unique<Lane>(model_.config, model_.tensors, model_.plan,
                                    static_cast<size_t>(model_.config.tokens_per_micro_batch()));
      return Status::Ok();
    });
    if (!made.ok()) return made;
    spdlog::info("one more micro-batch in flight; {} of the GPU's memory are taken",
                 Gib(DeviceMemory::TotalBytes()));
    return lane;
  }

  Status Train(const Parameters& parameters, const TokenBatch& batch, double loss_scale,
               Exchange& exchange, Workspace& workspace, double* loss_sum,
               Gradients* gradients) override {
    Lane& lane = static_cast<Lane&>(workspace);
    MF_RETURN_IF_ERROR(CheckFits(batch, model_.config, lane.tokens));
    return Guarded([&] {
      const auto on_device = parameters_.Get(parameters);
      DevicePass pass(model_, tables_, *on_device, batch, exchange, lane);
      const Drain drain{lane.stream.get()};
      Status status = pass.Forward();
      if (status.ok()) {
        pass.ScoreAndBackward(loss_scale);
        status = pass.Backward();
      }
      lane.stream.Wait();
      if (status.ok()) *loss_sum = pass.TakeLoss();
      if (status.ok()) pass.TakeGradients(gradients);
      return status;
    });
  }

  Status Score(const Parameters& parameters, const TokenBatch& batch, Exchange& exchange,
               Workspace& workspace, std::vector<float>* logprobs) override {
    Lane& lane = static_cast<Lane&>(workspace);
    MF_RETURN_IF_ERROR(CheckFits(batch, model_.config, lane.tokens));
    return Guarded([&] {
      const auto on_device = parameters_.Get(parameters);
      DevicePass pass(model_, tables_, *on_device, batch, exchange, lane);
      const Drain drain{lane.stream.get()};
      Status status = pass.Forward();
      if (status.ok()) pass.Score();
      lane.stream.Wait();
      if (status.ok()) pass.TakeLogprobs(logprobs);
      return status;
    });
  }

 private:
  DeviceModel model_;
  DeviceTables tables_;
  ParameterCache parameters_;
  std::string name_;
};

}  // namespace

Status CheckDevice(const Config& config, const std::vector<TensorSpec>& tensors) {
  int devices = 0;
  const cudaError_t found = cudaGetDeviceCount(&devices);
  if (found == cudaErrorNoDevice || (found == cudaSuccess && devices == 0)) {
    return Status::Failed("there is no GPU here that this process can use");
  }
  if (found != cudaSuccess) {
    return Status::Failed(std::string("the GPU cannot be used: ") + cudaGetErrorString(found));
  }
  if (static_cast<size_t>(config.model.head_dim()) > kMaxHeadDim) {
    return Status::Invalid("model.heads: heads of " + std::to_string(config.model.head_dim()) +
                           " numbers, a GPU's attention takes at most " +
                           std::to_string(kMaxHeadDim) + "; use more heads or --backend cpu");
  }
  return Guarded([&] {
    cudaDeviceProp properties;
    Check(cudaGetDeviceProperties(&properties, 0), "the GPU's properties");
    const std::string name = properties.name;
    if (properties.major < 8) {
      return Status::Failed(name + " is of generation " + std::to_string(properties.major) + "." +
                            std::to_string(properties.minor) + "; the kernels need 8.0 or newer");
    }
    size_t shared = AttentionSharedBytes(static_cast<size_t>(config.model.head_dim()));
    for (const BlockIds& block : Model::Plan(config, tensors).blocks) {
      if (config.model.projection == Projection::kDense) break;
      shared = std::max(shared, HashSharedBytes(block.qkv.hash));
    }
    if (shared > properties.sharedMemPerBlockOptin) {
      return Status::Failed(name + " has " + std::to_string(properties.sharedMemPerBlockOptin) +
                            " bytes of shared memory a block, this model's heads and probes need " +
                            std::to_string(shared));
    }
    return Status::Ok();
  });
}

Result<std::unique_ptr<Compute>> MakeCudaCompute(const Config& config,
                                                 const std::vector<TensorSpec>& tensors) {
  MF_RETURN_IF_ERROR(CheckDevice(config, tensors));
  std::unique_ptr<Compute> compute;
  const Status made = Guarded([&] {
    compute = std::make_unique<CudaCompute>(config, tensors);
    return Status::Ok();
  });
  if (!made.ok()) return made;
  return compute;
}

}  // namespace mf::cuda
