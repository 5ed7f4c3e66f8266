#include "worker/backend/cuda/compute.h"

#include <algorithm>
#include <exception>

#include "common/logging.h"
#include "worker/backend/cuda/attention.h"
#include "worker/backend/cuda/device_pass.h"
#include "worker/backend/cuda/lane.h"
#include "worker/backend/cuda/parameters.h"

namespace mf::cuda {
namespace {

/// The border where exceptions of this folder become a Status.
template <class Body>
Status Guarded(const Body& body) {
  try {
    return body();
  } catch (const CudaError& error) {
    return Status::Failed(std::string("CUDA: ") + error.what());
  }
}

Status CheckBatch(const TokenBatch& batch, const Config& config, size_t most) {
  if (batch.tokens() > 0 && batch.tokens() <= most &&
      batch.length <= static_cast<size_t>(config.model.sequence) &&
      batch.inputs.size() == batch.tokens() && batch.targets.size() == batch.tokens()) {
    const uint32_t vocabulary = static_cast<uint32_t>(config.model.vocabulary);
    const auto outside = [vocabulary](uint32_t id) { return id >= vocabulary; };
    if (std::none_of(batch.inputs.begin(), batch.inputs.end(), outside) &&
        std::none_of(batch.targets.begin(), batch.targets.end(), outside)) {
      return Status::Ok();
    }
    return Status::Invalid("the batch has a token outside the vocabulary of " +
                           std::to_string(vocabulary));
  }
  return Status::Invalid("batch of " + std::to_string(batch.sequences) + " sequences of " +
                         std::to_string(batch.length) + " tokens: at most " + std::to_string(most) +
                         " tokens, in sequences of at most " +
                         std::to_string(config.model.sequence) + ", fit");
}

class CudaCompute final : public Compute {
 public:
  CudaCompute(const Config& config, const std::vector<TensorSpec>& tensors)
      : model_(config, tensors) {
    cudaDeviceProp properties;
    Check(cudaGetDeviceProperties(&properties, 0), "the GPU's properties");
    name_ = std::string(properties.name) + ", " + Gib(properties.totalGlobalMem);
    if (model_.tables.bytes() > 0) {
      spdlog::info("copies of tables take {} of the GPU's memory", Gib(model_.tables.bytes()));
    }
  }

  std::string Describe() const override { return name_; }
  uint64_t device_bytes() const override { return DeviceMemory::TotalBytes(); }
  bool one_at_a_time() const override { return false; }

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
    MF_RETURN_IF_ERROR(CheckBatch(batch, model_.config, lane.tokens));
    return Guarded([&] {
      const auto on_device = parameters_.Get(parameters);
      DevicePass pass(model_, *on_device, batch, exchange, lane);
      Status status = pass.Forward();
      if (status.ok()) {
        pass.ScoreAndBackward(loss_scale);
        status = pass.Backward();
      }
      // Whatever happened, nothing of this micro-batch is left on the stream.
      lane.stream.Wait();
      if (status.ok()) *loss_sum = pass.TakeLoss();
      if (status.ok()) pass.TakeGradients(gradients);
      return status;
    });
  }

  Status Score(const Parameters& parameters, const TokenBatch& batch, Exchange& exchange,
               Workspace& workspace, std::vector<float>* logprobs) override {
    Lane& lane = static_cast<Lane&>(workspace);
    MF_RETURN_IF_ERROR(CheckBatch(batch, model_.config, lane.tokens));
    return Guarded([&] {
      const auto on_device = parameters_.Get(parameters);
      DevicePass pass(model_, *on_device, batch, exchange, lane);
      Status status = pass.Forward();
      if (status.ok()) pass.Score();
      lane.stream.Wait();
      if (status.ok()) pass.TakeLogprobs(logprobs);
      return status;
    });
  }

 private:
  DeviceModel model_;
  ParameterCache parameters_;
  std::string name_;
};

}  // namespace

int DeviceCount() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess ? devices : 0;
}

Result<std::unique_ptr<Compute>> MakeCudaCompute(const Config& config,
                                                 const std::vector<TensorSpec>& tensors) {
  int devices = 0;
  const cudaError_t found = cudaGetDeviceCount(&devices);
  if (found != cudaSuccess || devices == 0) {
    return Status::Failed(
        std::string("--backend cuda: no GPU can be used here") +
        (found != cudaSuccess ? std::string(" (") + cudaGetErrorString(found) + ")" : "") +
        "; is its driver loaded and CUDA_VISIBLE_DEVICES right? --backend cpu does without");
  }
  if (static_cast<size_t>(config.model.head_dim()) > kMaxHeadDim) {
    return Status::Invalid("model.heads: heads of " + std::to_string(config.model.head_dim()) +
                           " numbers, the GPU's attention takes at most " +
                           std::to_string(kMaxHeadDim) + "; use more heads or --backend cpu");
  }
  std::unique_ptr<Compute> compute;
  const Status made = Guarded([&] {
    compute = std::make_unique<CudaCompute>(config, tensors);
    return Status::Ok();
  });
  if (!made.ok()) return made;
  return compute;
}

}  // namespace mf::cuda
