// The model on the cores of this machine.
#pragma once

#include "worker/compute/compute.h"

namespace mf {

class CpuCompute final : public Compute {
 public:
  /// All arguments outlive it.
  CpuCompute(const Config& config, const std::vector<TensorSpec>& tensors, ThreadPool& pool)
      : tensors_(tensors), pool_(pool), model_(config, tensors, pool) {}

  std::string Describe() const override;
  bool one_at_a_time() const override { return true; }
  Result<std::unique_ptr<Workspace>> NewWorkspace() override;
  Status Train(const Parameters& parameters, const TokenBatch& batch, double loss_scale,
               Exchange& exchange, Workspace& workspace, double* loss_sum,
               Gradients* gradients) override;
  Status Score(const Parameters& parameters, const TokenBatch& batch, Exchange& exchange,
               Workspace& workspace, std::vector<float>* logprobs) override;

 private:
  const std::vector<TensorSpec>& tensors_;
  ThreadPool& pool_;
  const Model model_;
};

}  // namespace mf
