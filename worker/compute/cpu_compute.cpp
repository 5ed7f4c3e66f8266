#include "worker/compute/cpu_compute.h"

#include <algorithm>

#include "worker/compute/cpu/embedding.h"

namespace mf {
namespace {

struct CpuWorkspace final : Compute::Workspace {
  Model::Workspace model;
  DenseTensors gradients;
  std::vector<float> embed_rows;  // of the tokens that occur
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
  gradients->assign(own.gradients.begin(), own.gradients.end());
  const TensorSpec& embed = *FindTensor(tensors_, "embed.weight");
  const std::vector<uint64_t> rows = DistinctTokens(batch.inputs);
  const size_t columns = static_cast<size_t>(embed.columns);
  own.embed_rows.resize(rows.size() * columns);
  for (size_t i = 0; i < rows.size(); ++i) {
    std::copy_n(&own.gradients[embed.id][rows[i] * columns], columns, &own.embed_rows[i * columns]);
  }
  (*gradients)[embed.id] = own.embed_rows;
  return Status::Ok();
}

Status CpuCompute::Score(const Parameters& parameters, const TokenBatch& batch, Exchange& exchange,
                         Workspace& workspace, std::vector<float>* logprobs) {
  CpuWorkspace& own = static_cast<CpuWorkspace&>(workspace);
  return model_.Score(*parameters, batch, exchange, own.model, logprobs);
}

}  // namespace mf
