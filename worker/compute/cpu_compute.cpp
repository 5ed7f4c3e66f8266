#include "worker/compute/cpu_compute.h"

#include "worker/compute/cpu/embedding.h"

namespace mf {
namespace {

struct CpuWorkspace final : Compute::Workspace {
  Model::Workspace model;
  DenseTensors gradients;
};

}  // namespace

std::string CpuCompute::Describe() const {
  return "CPU, " + std::to_string(pool_.threads()) + " threads";
}

Result<std::unique_ptr<Compute::Workspace>> CpuCompute::NewWorkspace() {
  return std::unique_ptr<Workspace>(std::make_unique<CpuWorkspace>());
}

Status CpuCompute::Train(const Parameters& parameters, const TokenBatch& batch, double loss_scale,
                         Exchange& exchange, Workspace& workspace, double* loss_sum,
                         Gradients* gradients) {
  CpuWorkspace& own = static_cast<CpuWorkspace&>(workspace);
  MF_RETURN_IF_ERROR(
      model_.Train(*parameters, batch, loss_scale, exchange, own.model, loss_sum, &own.gradients));
  gradients->assign(tensors_.size(), {});
  for (const TensorSpec& tensor : tensors_) {
    (*gradients)[tensor.id].values = own.gradients[tensor.id];
  }
  (*gradients)[model_.embedding()].rows = DistinctTokens(batch.inputs);
  return Status::Ok();
}

Status CpuCompute::Score(const Parameters& parameters, const TokenBatch& batch, Exchange& exchange,
                         Workspace& workspace, std::vector<float>* logprobs) {
  CpuWorkspace& own = static_cast<CpuWorkspace&>(workspace);
  return model_.Score(*parameters, batch, exchange, own.model, logprobs);
}

}  // namespace mf
