#include "worker/compute/cpu_compute.h"

#include <algorithm>

#include "worker/compute/cpu/embedding.h"

namespace mf {
namespace {

struct CpuWorkspace final : Compute::Workspace {
  Model::Workspace model;
  DenseTensors gradients;
  std::vector<float> embedding_rows;  // of the tokens that occur
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
  // Of the embedding only the rows of tokens that occur.
  const TensorSpec& embedding = tensors_[model_.embedding()];
  Gradient& sparse = (*gradients)[embedding.id];
  sparse.rows = DistinctTokens(batch.inputs);
  const size_t columns = static_cast<size_t>(embedding.columns);
  own.embedding_rows.resize(sparse.rows.size() * columns);
  for (size_t i = 0; i < sparse.rows.size(); ++i) {
    std::copy_n(&sparse.values[sparse.rows[i] * columns], columns,
                &own.embedding_rows[i * columns]);
  }
  sparse.values = own.embedding_rows;
  return Status::Ok();
}

Status CpuCompute::Score(const Parameters& parameters, const TokenBatch& batch, Exchange& exchange,
                         Workspace& workspace, std::vector<float>* logprobs) {
  CpuWorkspace& own = static_cast<CpuWorkspace&>(workspace);
  return model_.Score(*parameters, batch, exchange, own.model, logprobs);
}

}  // namespace mf
