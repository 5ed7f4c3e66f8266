// The model of DESIGN section 3: forward and backward of one micro-batch on the CPU. It owns no
// parameters: dense tensors are handed in, memory layers are asked of an Exchange.
#pragma once

#include <algorithm>
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

  /// What a text so far leaves behind for the tokens after it: of every block the queries, keys and
  /// values of each token.
  class Context {
   public:
    size_t length() const { return length_; }
    /// Forgets what comes after the first `length` tokens.
    void Truncate(size_t length) { length_ = std::min(length_, length); }

   private:
    friend class Model;
    friend class Pass;
    size_t length_ = 0;
    std::vector<std::vector<float>> qkv_;  // by block, [length or more][3d], rotated
  };

  /// `config`, `tensors` and `pool` outlive the model. Compute runs on `pool`; several threads may
  /// call the methods below at once, each with its own Workspace.
  Model(const Config& config, const std::vector<TensorSpec>& tensors, ThreadPool& pool);

  /// Forward, loss and backward. `loss_scale` multiplies dL/dlogits (1 / tokens of the whole step).
  /// Writes *loss_sum, the sum over tokens of -log p(target) in token order, and the gradients of
  /// all dense tensors (resized and overwritten): of the embedding, the rows of the tokens that
  /// occur, rising (DistinctTokens(), worker/compute/cpu/embedding.h).
  Status Train(const DenseTensors& parameters, const TokenBatch& batch, double loss_scale,
               Exchange& exchange, Workspace& workspace, double* loss_sum,
               DenseTensors* gradients) const;

  /// Forward only: logprobs[i] = log p(targets[i]) for every position.
  Status Score(const DenseTensors& parameters, const TokenBatch& batch, Exchange& exchange,
               Workspace& workspace, std::vector<float>* logprobs) const;

  /// Forward only, over the tokens `ids` that follow those of the context, which takes them in:
  /// logits [vocabulary] after the last one. At most model.sequence tokens in all. They are those
  /// of one pass over the whole text but for rounding, and cost the work of the new tokens.
  Status Extend(const DenseTensors& parameters, std::vector<uint32_t> ids, Exchange& exchange,
                Workspace& workspace, Context* context, std::vector<float>* logits) const;

  /// Forward only: logprobs[i] = log p(targets[i]) of several texts, each a sequence of the batch
  /// that follows the context by itself. The context stays as it is.
  Status ScoreAfter(const DenseTensors& parameters, const TokenBatch& batch, Exchange& exchange,
                    Workspace& workspace, Context* context, std::vector<float>* logprobs) const;

  /// The id of the token embedding: the tensor of which only rows of tokens that occur have a
  /// gradient.
  uint32_t embedding() const;

  struct Plan;  // tensor ids by role, rotary tables: worker/model/model_state.h

 private:
  friend class Pass;
  Status CheckRoom(const Context& context, size_t more) const;

  const Config& config_;
  const std::vector<TensorSpec>& tensors_;
  ThreadPool& pool_;
  std::shared_ptr<const Plan> plan_;
};

}  // namespace mf
