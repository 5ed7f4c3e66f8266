// The model of DESIGN section 3: forward and backward of one micro-batch on the CPU. It owns no
// parameters: dense tensors are handed in, memory layers are asked of an Exchange.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/base/status.h"
#include "common/base/thread_pool.h"
#include "common/run/tensor_spec.h"
#include "worker/config/config.h"
#include "worker/data/token_batch.h"
#include "worker/exchange/exchange.h"

namespace mf {

/// Dense tensors by tensor id: float [rows][columns], contiguous; empty for memory tensors.
using DenseTensors = std::vector<std::vector<float>>;

class Model {
 public:
  /// Activations and scratch of one micro-batch; reused between calls, one per micro-batch in
  /// flight.
  class Workspace {
   public:
    Workspace();
    ~Workspace();
    Workspace(Workspace&&) noexcept;
    Workspace& operator=(Workspace&&) noexcept;
    struct State;
    std::unique_ptr<State> state;
  };

  /// `config`, `tensors` and `pool` outlive the model. Compute runs on `pool`; several threads may
  /// call the methods below at once, each with its own Workspace.
  Model(const Config& config, const std::vector<TensorSpec>& tensors, ThreadPool& pool);

  /// Forward, loss and backward. `loss_scale` multiplies dL/dlogits (1 / tokens of the whole step).
  /// Writes *loss_sum, the sum over tokens of -log p(target) in token order, and the gradients of
  /// all dense tensors (resized and overwritten). The gradient of the embedding is dense; rows
  /// of tokens that do not occur are zero.
  Status Train(const DenseTensors& parameters, const TokenBatch& batch, double loss_scale,
               Exchange& exchange, Workspace& workspace, double* loss_sum,
               DenseTensors* gradients) const;

  /// Forward only: logprobs[i] = log p(targets[i]) for every position.
  Status Score(const DenseTensors& parameters, const TokenBatch& batch, Exchange& exchange,
               Workspace& workspace, std::vector<float>* logprobs) const;

  /// Forward only (targets unused): logits [sequences][vocabulary] of each sequence's last
  /// position.
  Status LastLogits(const DenseTensors& parameters, const TokenBatch& batch, Exchange& exchange,
                    Workspace& workspace, std::vector<float>* logits) const;

  /// The id of the token embedding: the tensor of which only rows of tokens that occur have a
  /// gradient.
  uint32_t embedding() const;

  struct Plan;  // tensor ids by role, rotary tables: worker/model/model_state.h

 private:
  friend class Pass;

  const Config& config_;
  const std::vector<TensorSpec>& tensors_;
  ThreadPool& pool_;
  std::shared_ptr<const Plan> plan_;
};

}  // namespace mf
