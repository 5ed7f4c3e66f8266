// Blocks of memory layers (eq. 13): three exchanges forward, three backward.
#include "worker/model/model_pass.h"

namespace mf {

void Pass::HashNormed(const NormIds& norm, const ProjectionIds& layer, const float* x,
                      Hashes* hashes) {
  *hashes = MakeHashes(layer.hash, tokens_);
  const NormParameters parameters = NormOf(norm);
  ForChunks(tokens_, pool_, [&](const Chunk& chunk) {
    float* normed = Rows(chunk.thread, 0, norm.width);
    NormRows(parameters, x + chunk.begin * norm.width, chunk.count, normed);
    HashRows(layer.hash, normed, chunk.begin, chunk.count, *hashes);
  });
}

Status Pass::ForwardMemoryBlock(const BlockIds& ids, BlockActivations& block, float* out) {
  const auto spec = [&](const ProjectionIds& layer) -> const TensorSpec& {
    return tensors_[static_cast<size_t>(layer.weight)];
  };
  // X1 = Norm(X); Q, K, V = memory layers of X1, one hash.
  HashNormed(ids.norm1, ids.qkv, block.x.data(), &block.qkv_hash);
  float* qkv = Need(block.qkv, tokens_ * 3 * d_);
  MF_RETURN_IF_ERROR(exchange_.Forward(spec(ids.qkv), block.qkv_hash, qkv));
  AddBiasAndRotate(ids.qkv.bias, qkv);

  // Z = X + MultiHeadAttention(Q, K, V), no output projection.
  Attend(ids, block);
  float* z = Need(block.z, tokens_ * d_);
  AddRows(block.x.data(), block.attended.data(), -1, z);

  // Y = Z + M2(LayerNorm(M1(Norm(Z)))).
  HashNormed(ids.norm2, ids.first, z, &block.first_hash);
  float* middle = Need(block.middle, tokens_ * ids.first.out);
  MF_RETURN_IF_ERROR(exchange_.Forward(spec(ids.first), block.first_hash, middle));
  AddBias(ids.first.bias, ids.first.out, middle);
  HashNormed(ids.mid_norm, ids.second, middle, &block.second_hash);
  MF_RETURN_IF_ERROR(exchange_.Forward(spec(ids.second), block.second_hash, out));
  AddRows(z, out, ids.second.bias, out);
  return Status::Ok();
}

/// From dy [T][out] of a memory layer to dx [T][in] of the norm before it; `residual` is added to
/// dx.
Status Pass::BackwardLayer(const NormIds& norm, const ProjectionIds& layer, const Hashes& hashes,
                           const float* x, const Buffer& dy, const float* residual, float* dx,
                           DenseTensors* gradients) {
  BiasGradient(layer.bias, layer.out, dy.as<float>(), gradients);
  float* dweights = Need(state_.dweights, hashes.pairs * tokens_);
  MF_RETURN_IF_ERROR(
      exchange_.Backward(tensors_[static_cast<size_t>(layer.weight)], hashes, dy, dweights));
  const NormParameters parameters = NormOf(norm);
  state_.norm_sums.Reset(tokens_, 2 * norm.width);
  ForChunks(tokens_, pool_, [&](const Chunk& chunk) {
    const size_t at = chunk.begin * norm.width;
    float* normed = Rows(chunk.thread, 0, norm.width);
    float* dnormed = Rows(chunk.thread, 1, norm.width);
    NormRows(parameters, x + at, chunk.count, normed);
    HashBackwardRows(layer.hash, normed, chunk.begin, chunk.count, tokens_, dweights, dnormed);
    NormGradients out = NormSums(norm, chunk, dx + at);
    if (residual) out.residual = residual + at;
    NormBackwardRows(parameters, x + at, dnormed, chunk.count, out);
  });
  TakeNormSums(norm, gradients);
  return Status::Ok();
}

Status Pass::BackwardMemoryBlock(const BlockIds& ids, const BlockActivations& block,
                                 DenseTensors* gradients) {
  // Gradients that are sent live in fresh buffers: a message may outlast this call.
  const Buffer dy(tokens_ * d_ * sizeof(float));
  std::copy_n(state_.dx.data(), tokens_ * d_, dy.as<float>());
  const Buffer dmiddle(tokens_ * ids.first.out * sizeof(float));
  MF_RETURN_IF_ERROR(BackwardLayer(ids.mid_norm, ids.second, block.second_hash, block.middle.data(),
                                   dy, nullptr, dmiddle.as<float>(), gradients));
  float* dx = state_.dx.data();
  MF_RETURN_IF_ERROR(BackwardLayer(ids.norm2, ids.first, block.first_hash, block.z.data(), dmiddle,
                                   dx, dx, gradients));
  const Buffer dqkv(tokens_ * 3 * d_ * sizeof(float));
  BackwardAttend(block, dx, dqkv.as<float>());
  return BackwardLayer(ids.norm1, ids.qkv, block.qkv_hash, block.x.data(), dqkv, dx, dx, gradients);
}

}  // namespace mf
