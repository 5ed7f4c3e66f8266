// Blocks of memory layers (eq. 13) on the GPU: hashed there, summed by the servers or from copies
// of their rows, three times each way.
#include <algorithm>

#include "worker/compute/cuda/device_pass.h"
#include "worker/compute/cuda/kernels/attention.h"
#include "worker/compute/cuda/kernels/hash.h"

namespace mf::cuda {

bool DevicePass::OnDevice(const ProjectionIds& layer) const {
  // Tests may give an exchange that has no rows.
  return model_.tensors[static_cast<size_t>(layer.weight)].on_device && exchange_.rows() != nullptr;
}

Pairs DevicePass::PairsOf(const ProjectionIds& layer, const HashBuffers& hash) const {
  const TensorSpec& tensor = model_.tensors[static_cast<size_t>(layer.weight)];
  return {.tokens = tokens_,
          .tables = layer.hash.tables,
          .probes = layer.hash.probes,
          .rows_per_table = static_cast<size_t>(tensor.rows),
          .index_bytes = layer.hash.index_bytes,
          .indices = hash.indices,
          .weights = hash.weights};
}

/// Starts the copy of a hash to pinned memory, of which messages are made.
void DevicePass::DownloadHashes(const ProjectionIds& layer, const HashBuffers& hash, Hashes* sent) {
  const size_t pairs = layer.hash.pairs();
  const size_t index_bytes = pairs * tokens_ * static_cast<size_t>(layer.hash.index_bytes);
  *sent = {.tokens = tokens_,
           .pairs = pairs,
           .probes = layer.hash.probes,
           .index_bytes = layer.hash.index_bytes,
           .indices = lane_.pinned.Take(index_bytes),
           .weights = lane_.pinned.Take(pairs * tokens_ * sizeof(float))};
  lane_.Download(hash.indices, index_bytes, sent->indices.data());
  lane_.Download(hash.weights, pairs * tokens_, sent->weights.as<float>());
}

/// y [T][out] = the layer's sums, no bias.
Status DevicePass::ForwardLayer(const NormIds& norm, const ProjectionIds& layer, const float* x,
                                const HashBuffers& hash, Hashes* sent, float* y) {
  HashForward(stream_, NormOf(norm), layer.hash, x, tokens_, hash.indices, hash.weights);
  if (OnDevice(layer)) return SumsOfCopies(layer, hash, sent, y);
  DownloadHashes(layer, hash, sent);
  lane_.stream.Wait();  // also for the upload of the layer before, whose place y takes
  const TensorSpec& tensor = model_.tensors[static_cast<size_t>(layer.weight)];
  MF_RETURN_IF_ERROR(exchange_.Forward(tensor, *sent, lane_.host.y));
  lane_.Upload(lane_.host.y, tokens_ * layer.out, y);
  return Status::Ok();
}

Status DevicePass::SumsOfCopies(const ProjectionIds& layer, const HashBuffers& hash, Hashes* sent,
                                float* y) {
  const TensorSpec& tensor = model_.tensors[static_cast<size_t>(layer.weight)];
  const Pairs pairs = PairsOf(layer, hash);
  if (tensor.mode == ExchangeMode::kPushdown) DownloadHashes(layer, hash, sent);
  const float* table = nullptr;
  MF_RETURN_IF_ERROR(tables_.Refresh(tensor, pairs, *exchange_.rows(), lane_, &table));
  GatherReduce(stream_, pairs, table, layer.out, y);
  return Status::Ok();
}

Status DevicePass::ForwardMemoryBlock(const BlockIds& ids, BlockBuffers& block, float* out) {
  BlockHashes& sent = hashes_[static_cast<size_t>(&block - on_.blocks.data())];
  MF_RETURN_IF_ERROR(
      ForwardLayer(ids.norm1, ids.qkv, block.x, block.qkv_hash, &sent.qkv, block.qkv));
  AddBiasAndRotate(stream_, model_.rotary, 2 * attention_.heads, attention_.length,
                   Parameter(ids.qkv.bias), tokens_, 3 * d_, block.qkv);
  AttentionForward(stream_, attention_, block.qkv, block.attended, block.log_sums);
  AddRows(stream_, block.x, block.attended, nullptr, tokens_, d_, block.z);
  MF_RETURN_IF_ERROR(
      ForwardLayer(ids.norm2, ids.first, block.z, block.first_hash, &sent.first, block.middle));
  AddBias(stream_, Parameter(ids.first.bias), tokens_, ids.first.out, block.middle);
  MF_RETURN_IF_ERROR(
      ForwardLayer(ids.mid_norm, ids.second, block.middle, block.second_hash, &sent.second, out));
  AddRows(stream_, block.z, out, Parameter(ids.second.bias), tokens_, d_, out);
  return Status::Ok();
}

/// From dy [T][out] to dx [T][in] of the norm before the layer.
Status DevicePass::BackwardLayer(const NormIds& norm, const ProjectionIds& layer,
                                 const LayerBackward& at) {
  MF_RETURN_IF_ERROR(OnDevice(layer) ? DotsOfCopies(layer, at) : DotsOfServers(layer, at));
  HashBackward(stream_, NormOf(norm), layer.hash, at.x, tokens_, on_.dweights, on_.dnormed);
  BackwardNorm(norm, at.x, on_.dnormed, at.residual, at.dx);
  return Status::Ok();
}

Status DevicePass::DotsOfServers(const ProjectionIds& layer, const LayerBackward& at) {
  // A message may outlast this call: a buffer of its own.
  const Buffer dy = lane_.pinned.Take(tokens_ * layer.out * sizeof(float));
  lane_.Download(at.dy, tokens_ * layer.out, dy.as<float>());
  lane_.stream.Wait();
  BiasGradient(layer.bias, layer.out, at.dy);  // while the servers work
  const TensorSpec& tensor = model_.tensors[static_cast<size_t>(layer.weight)];
  MF_RETURN_IF_ERROR(exchange_.Backward(tensor, at.sent, dy, lane_.host.dweights));
  lane_.Upload(lane_.host.dweights, layer.hash.pairs() * tokens_, on_.dweights);
  return Status::Ok();
}

/// The dots come from the copies, so nothing waits for the servers: their part of the gradient is
/// in flight until the micro-batch ends. What is sent is copied first, and the GPU goes on
/// meanwhile.
Status DevicePass::DotsOfCopies(const ProjectionIds& layer, const LayerBackward& at) {
  const TensorSpec& tensor = model_.tensors[static_cast<size_t>(layer.weight)];
  const bool push = tensor.mode == ExchangeMode::kPull;
  const Buffer dy = push ? Buffer() : lane_.pinned.Take(tokens_ * layer.out * sizeof(float));
  const Buffer met = lane_.pinned.Take(sizeof(uint32_t));
  if (push) {
    const Pairs pairs = PairsOf(layer, at.hash);
    const RowBuffers& rows = lane_.rows;
    // Sorted once more: a lane has scratch for one layer's groups, not for those of all.
    GroupByRow(stream_, pairs, rows.groups);
    RowGradients(stream_, pairs, rows.groups, at.dy, layer.out, rows.gradients, rows.hits);
    lane_.Download(rows.groups.count, 1, met.as<uint32_t>());
  } else {
    lane_.Download(at.dy, tokens_ * layer.out, dy.as<float>());
  }
  lane_.copied.Record(stream_);
  PairDots(stream_, PairsOf(layer, at.hash), tables_.rows(tensor), layer.out, at.dy, on_.dweights);
  BiasGradient(layer.bias, layer.out, at.dy);
  lane_.copied.Wait();
  if (push) {
    PushGradients(tensor, *met.as<uint32_t>());
  } else {
    exchange_.rows()->SendGradient(tensor, at.sent, dy);
  }
  return Status::Ok();
}

/// Sends the `met` rows of gradients that lie in the lane's buffers.
void DevicePass::PushGradients(const TensorSpec& tensor, size_t met) {
  const size_t numbers = met * static_cast<size_t>(tensor.columns);
  const Buffer ids = lane_.pinned.Take(met * sizeof(uint32_t));
  const Buffer hits = lane_.pinned.Take(met * sizeof(uint32_t));
  const Buffer values = lane_.pinned.Take(numbers * sizeof(float));
  lane_.Download(lane_.rows.groups.rows, met, ids.as<uint32_t>());
  lane_.Download(lane_.rows.hits, met, hits.as<uint32_t>());
  lane_.Download(lane_.rows.gradients, numbers, values.as<float>());
  lane_.stream.Wait();
  const Buffer wide(met * sizeof(uint64_t));
  std::copy_n(ids.as<uint32_t>(), met, wide.as<uint64_t>());
  exchange_.rows()->PushRows(tensor, wide, hits, values);
}

Status DevicePass::BackwardMemoryBlock(const BlockIds& ids, size_t index) {
  const BlockBuffers& block = on_.blocks[index];
  const BlockHashes& sent = hashes_[index];
  MF_RETURN_IF_ERROR(BackwardLayer(ids.mid_norm, ids.second,
                                   {.hash = block.second_hash,
                                    .sent = sent.second,
                                    .x = block.middle,
                                    .dy = on_.dx,
                                    .residual = nullptr,
                                    .dx = on_.dmiddle}));
  MF_RETURN_IF_ERROR(BackwardLayer(ids.norm2, ids.first,
                                   {.hash = block.first_hash,
                                    .sent = sent.first,
                                    .x = block.z,
                                    .dy = on_.dmiddle,
                                    .residual = on_.dx,
                                    .dx = on_.dx}));
  BackwardAttend(block, on_.dx);
  return BackwardLayer(ids.norm1, ids.qkv,
                       {.hash = block.qkv_hash,
                        .sent = sent.qkv,
                        .x = block.x,
                        .dy = on_.dqkv,
                        .residual = on_.dx,
                        .dx = on_.dx});
}

}  // namespace mf::cuda
