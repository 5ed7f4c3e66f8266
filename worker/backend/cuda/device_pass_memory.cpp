// Blocks of memory layers (eq. 13) on the GPU: hash there, exchange from here, three times each
// way.
#include "worker/backend/cuda/attention.h"
#include "worker/backend/cuda/device_pass.h"
#include "worker/backend/cuda/hash.h"

namespace mf::cuda {

/// y [T][out] on the GPU = the layer's sums, no bias. The hash goes to `hashes`, in pinned memory.
Status DevicePass::ForwardLayer(const NormIds& norm, const ProjectionIds& layer, const float* x,
                                Hashes* hashes, float* y) {
  const size_t pairs = layer.hash.pairs();
  const size_t index_bytes = pairs * tokens_ * static_cast<size_t>(layer.hash.index_bytes);
  HashForward(stream_, NormOf(norm), layer.hash, x, tokens_, on_.indices, on_.weights);
  *hashes = {.tokens = tokens_,
             .pairs = pairs,
             .probes = layer.hash.probes,
             .index_bytes = layer.hash.index_bytes,
             .indices = lane_.pinned.Take(index_bytes),
             .weights = lane_.pinned.Take(pairs * tokens_ * sizeof(float))};
  Download(on_.indices, index_bytes, hashes->indices.data());
  Download(on_.weights, pairs * tokens_, hashes->weights.as<float>());
  lane_.stream.Wait();  // also for the upload of the layer before, whose place y takes
  const TensorSpec& tensor = model_.tensors[static_cast<size_t>(layer.weight)];
  MF_RETURN_IF_ERROR(exchange_.Forward(tensor, *hashes, lane_.host.y));
  Check(cudaMemcpyAsync(y, lane_.host.y, tokens_ * layer.out * sizeof(float),
                        cudaMemcpyHostToDevice, stream_),
        "upload");
  return Status::Ok();
}

Status DevicePass::ForwardMemoryBlock(const BlockIds& ids, BlockBuffers& block, float* out) {
  BlockHashes& hashes = hashes_[static_cast<size_t>(&block - on_.blocks.data())];
  MF_RETURN_IF_ERROR(ForwardLayer(ids.norm1, ids.qkv, block.x, &hashes.qkv, block.qkv));
  AddBiasAndRotate(stream_, model_.rotary, 2 * attention_.heads, attention_.length,
                   Parameter(ids.qkv.bias), tokens_, 3 * d_, block.qkv);
  AttentionForward(stream_, attention_, block.qkv, block.attended, block.log_sums);
  AddRows(stream_, block.x, block.attended, nullptr, tokens_, d_, block.z);
  MF_RETURN_IF_ERROR(ForwardLayer(ids.norm2, ids.first, block.z, &hashes.first, block.middle));
  AddBias(stream_, Parameter(ids.first.bias), tokens_, ids.first.out, block.middle);
  MF_RETURN_IF_ERROR(ForwardLayer(ids.mid_norm, ids.second, block.middle, &hashes.second, out));
  AddRows(stream_, block.z, out, Parameter(ids.second.bias), tokens_, d_, out);
  return Status::Ok();
}

/// From dy [T][out] to dx [T][in] of the norm before the layer; `residual` is added to dx.
Status DevicePass::BackwardLayer(const NormIds& norm, const ProjectionIds& layer,
                                 const Hashes& hashes, const float* x, const float* dy,
                                 const float* residual, float* dx) {
  const size_t pairs = layer.hash.pairs();
  // A message may outlast this call: a buffer of its own.
  const Buffer sent = lane_.pinned.Take(tokens_ * layer.out * sizeof(float));
  Download(dy, tokens_ * layer.out, sent.as<float>());
  lane_.stream.Wait();
  BiasGradient(layer.bias, layer.out, dy);  // while the servers work
  const TensorSpec& tensor = model_.tensors[static_cast<size_t>(layer.weight)];
  MF_RETURN_IF_ERROR(exchange_.Backward(tensor, hashes, sent, lane_.host.dweights));
  Check(cudaMemcpyAsync(on_.dweights, lane_.host.dweights, pairs * tokens_ * sizeof(float),
                        cudaMemcpyHostToDevice, stream_),
        "upload");
  HashBackward(stream_, NormOf(norm), layer.hash, x, tokens_, on_.dweights, on_.dnormed);
  BackwardNorm(norm, x, on_.dnormed, residual, dx);
  return Status::Ok();
}

Status DevicePass::BackwardMemoryBlock(const BlockIds& ids, size_t index) {
  const BlockBuffers& block = on_.blocks[index];
  const BlockHashes& hashes = hashes_[index];
  MF_RETURN_IF_ERROR(BackwardLayer(ids.mid_norm, ids.second, hashes.second, block.middle, on_.dx,
                                   nullptr, on_.dmiddle));
  MF_RETURN_IF_ERROR(
      BackwardLayer(ids.norm2, ids.first, hashes.first, block.z, on_.dmiddle, on_.dx, on_.dx));
  BackwardAttend(block, on_.dx);
  return BackwardLayer(ids.norm1, ids.qkv, hashes.qkv, block.x, on_.dqkv, on_.dx, on_.dx);
}

}  // namespace mf::cuda
