// Inside the model: one forward or backward pass over one micro-batch. Every step is a loop on the
// pool that ends before the next begins; calls of the exchange happen between loops, so that the
// pool is free for other micro-batches while this one waits for the servers.
#pragma once

#include <vector>

#include "worker/compute/cpu/norm.h"
#include "worker/model/model_state.h"

namespace mf {

class Pass {
 public:
  /// With a context, which goes with forward only, each sequence of the batch continues it.
  Pass(const Model& model, const DenseTensors& parameters, const TokenBatch& batch,
       Exchange& exchange, Model::Workspace& workspace, Model::Context* context = nullptr);

  /// Embedding and all blocks: fills state.blocks and state.x.
  Status Forward();

  /// Final norm and classifier over slices of tokens; log p(target) of every token to state.nll
  /// with the sign changed.
  void Score();
  /// The same with gradients: dL/d(output of the last block) to state.dx, final norm and head to
  /// `gradients`.
  void ScoreAndBackward(double loss_scale, DenseTensors* gradients);
  /// logits [vocabulary] of the last token.
  void LastLogits(std::vector<float>* logits);

  /// All blocks and the embedding, from state.dx.
  Status Backward(DenseTensors* gradients);

 private:
  // Blocks, memory layers (model_memory.cpp).
  Status ForwardMemoryBlock(const BlockIds& ids, BlockActivations& block, float* out);
  Status BackwardMemoryBlock(const BlockIds& ids, const BlockActivations& block,
                             DenseTensors* gradients);
  void HashNormed(const NormIds& norm, const ProjectionIds& layer, const float* x, Hashes* hashes);
  Status BackwardLayer(const NormIds& norm, const ProjectionIds& layer, const Hashes& hashes,
                       const float* x, const Buffer& dy, const float* residual, float* dx,
                       DenseTensors* gradients);

  // Blocks, fully connected layers (model_dense.cpp).
  void ForwardDenseBlock(const BlockIds& ids, BlockActivations& block, float* out);
  void BackwardDenseBlock(const BlockIds& ids, const BlockActivations& block,
                          DenseTensors* gradients);
  void Multiply(const ProjectionIds& layer, const float* x, float* y);
  void BackwardMultiply(const ProjectionIds& layer, const float* x, const float* dy, float* dx,
                        DenseTensors* gradients);

  // Parts of both.
  void Norm(const NormIds& norm, const float* x, float* y);
  void BackwardNorm(const NormIds& norm, const float* x, const float* dy, const float* residual,
                    float* dx, DenseTensors* gradients);
  void AddBias(int bias, size_t width, float* y);
  void AddBiasAndRotate(int bias, float* qkv);
  size_t PositionOf(size_t token) const;  // in its sequence
  void Attend(const BlockIds& ids, BlockActivations& block);
  void BackwardAttend(const BlockActivations& block, const float* dout, float* dqkv);
  void AddRows(const float* a, const float* b, int bias, float* out);
  void BiasGradient(int bias, size_t width, const float* dy, DenseTensors* gradients);
  void LogitsOf(const float* normed, size_t rows, float* logits);

  const float* Parameter(int id) const;
  NormParameters NormOf(const NormIds& norm) const;
  NormGradients NormSums(const NormIds& norm, const Chunk& chunk, float* dx);
  void TakeNormSums(const NormIds& norm, DenseTensors* gradients);
  float* Rows(int thread, size_t which, size_t width);

  const Config& config_;
  const std::vector<TensorSpec>& tensors_;
  const Model::Plan& plan_;
  ThreadPool& pool_;
  const DenseTensors& parameters_;
  const TokenBatch& batch_;
  Exchange& exchange_;
  Model::Workspace::State& state_;
  Model::Context* const context_;
  const size_t tokens_;
  const size_t d_;
  const size_t vocabulary_;
  const AttentionShape attention_;
};

}  // namespace mf
