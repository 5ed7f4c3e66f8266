// One forward or backward pass over one micro-batch on the GPU: what Pass is for the CPU
// (worker/model/model_pass.h). Everything is started on the lane's stream, in order; the host waits
// only where numbers have to leave the GPU: hashes and gradients for the exchange, the results at
// the end.
#pragma once

#include <vector>

#include "worker/compute/compute.h"
#include "worker/compute/cpu/norm.h"
#include "worker/compute/cuda/device_tables.h"
#include "worker/compute/cuda/kernels/elementwise.h"
#include "worker/compute/cuda/kernels/embedding.h"
#include "worker/compute/cuda/lane.h"
#include "worker/compute/cuda/parameters.h"
#include "worker/model/model_state.h"

namespace mf::cuda {

/// What all passes share: which tensor is what, and the rotary tables on the GPU.
struct DeviceModel {
  /// Throws CudaError. Arguments outlive it.
  DeviceModel(const Config& config, const std::vector<TensorSpec>& tensors);

  const Config& config;
  const std::vector<TensorSpec>& tensors;
  const Model::Plan plan;
  RotaryTables rotary;

 private:
  DeviceMemory rotary_memory_;
};

class DevicePass {
 public:
  DevicePass(const DeviceModel& model, DeviceTables& tables, const DeviceParameters& parameters,
             const TokenBatch& batch, Exchange& exchange, Lane& lane);

  /// Embedding and all blocks.
  Status Forward();
  /// Final norm, head and loss over slices of tokens.
  void Score();
  /// The same with gradients of the final norm and the head, and of the last block's output.
  void ScoreAndBackward(double loss_scale);
  /// All blocks and the embedding; then starts the copy of all gradients to the host.
  Status Backward();

  // Once the stream is done:
  double TakeLoss() const;  // sum of -log p(target) in token order
  void TakeLogprobs(std::vector<float>* logprobs) const;
  void TakeGradients(Compute::Gradients* gradients) const;

 private:
  // Memory layers (device_pass_memory.cpp).
  Status ForwardMemoryBlock(const BlockIds& ids, BlockBuffers& block, float* out);
  Status BackwardMemoryBlock(const BlockIds& ids, size_t block);
  Status ForwardLayer(const NormIds& norm, const ProjectionIds& layer, const float* x,
                      const HashBuffers& hash, Hashes* sent, float* y);
  struct LayerBackward {
    const HashBuffers& hash;
    const Hashes& sent;
    const float* x;
    const float* dy;
    const float* residual;  // added to dx, or nullptr
    float* dx;
  };
  Status BackwardLayer(const NormIds& norm, const ProjectionIds& layer, const LayerBackward& at);
  // The sums of a layer: by the servers, or here from copies of their rows.
  bool OnDevice(const ProjectionIds& layer) const;
  Pairs PairsOf(const ProjectionIds& layer, const HashBuffers& hash) const;
  void DownloadHashes(const ProjectionIds& layer, const HashBuffers& hash, Hashes* sent);
  Status SumsOfCopies(const ProjectionIds& layer, const HashBuffers& hash, Hashes* sent, float* y);
  Status DotsOfServers(const ProjectionIds& layer, const LayerBackward& at);
  Status DotsOfCopies(const ProjectionIds& layer, const LayerBackward& at);
  void PushGradients(const TensorSpec& tensor, size_t met);

  // Fully connected layers (device_pass_dense.cpp).
  void ForwardDenseBlock(const BlockIds& ids, BlockBuffers& block, float* out);
  void BackwardDenseBlock(const BlockIds& ids, const BlockBuffers& block);
  void Multiply(const ProjectionIds& layer, const float* x, float* y);
  void BackwardMultiply(const ProjectionIds& layer, const float* x, const float* dy, float* dx);

  // Parts of both.
  void UploadBatch();
  void LossOf(size_t begin, size_t rows, const double* loss_scale);
  void BackwardNorm(const NormIds& norm, const float* x, const float* dy, const float* residual,
                    float* dx);
  void BackwardAttend(const BlockBuffers& block, const float* dout);
  void BiasGradient(int bias, size_t width, const float* dy);
  NormParameters NormOf(const NormIds& norm) const;
  const float* Parameter(int id) const { return parameters_.At(id); }
  float* Gradient(int id) const { return lane_.device.gradients[static_cast<size_t>(id)]; }

  const DeviceModel& model_;
  DeviceTables& tables_;
  const DeviceParameters& parameters_;
  const TokenBatch& batch_;
  Exchange& exchange_;
  Lane& lane_;
  DeviceBuffers& on_;
  const cudaStream_t stream_;
  const size_t tokens_;
  const size_t d_;
  const size_t vocabulary_;
  const AttentionShape attention_;
  size_t distinct_ = 0;  // tokens that occur
  struct BlockHashes {
    Hashes qkv, first, second;
  };
  std::vector<BlockHashes> hashes_;  // as they go to the exchange
};

}  // namespace mf::cuda
