#include "worker/compute/cuda/device_pass.h"

#include <algorithm>
#include <numeric>

#include "worker/compute/cuda/kernels/attention.h"
#include "worker/compute/cuda/kernels/column_sums.h"
#include "worker/compute/cuda/kernels/cross_entropy.h"
#include "worker/compute/cuda/kernels/norm.h"

namespace mf::cuda {

DeviceModel::DeviceModel(const Config& c, const std::vector<TensorSpec>& t)
    : config(c), tensors(t), plan(c, t) {
  const std::vector<float>& cosines = plan.rotary.cosines();
  const std::vector<float>& sines = plan.rotary.sines();
  rotary.pairs = plan.rotary.pairs();
  rotary.head_dim = static_cast<size_t>(config.model.head_dim());
  const size_t bytes = cosines.size() * sizeof(float);
  rotary_memory_ = DeviceMemory(2 * bytes, "rotary tables");
  float* to = static_cast<float*>(rotary_memory_.data());
  const Stream stream;
  if (bytes > 0) {
    const auto upload = [&](const std::vector<float>& from, float* place) {
      Check(cudaMemcpyAsync(place, from.data(), bytes, cudaMemcpyHostToDevice, stream.get()),
            "upload of rotary tables");
    };
    upload(cosines, to);
    upload(sines, to + cosines.size());
    stream.Wait();
  }
  rotary.cosines = to;
  rotary.sines = to + cosines.size();
}

DevicePass::DevicePass(const DeviceModel& model, DeviceTables& tables,
                       const DeviceParameters& parameters, const TokenBatch& batch,
                       Exchange& exchange, Lane& lane)
    : model_(model),
      tables_(tables),
      parameters_(parameters),
      batch_(batch),
      exchange_(exchange),
      lane_(lane),
      on_(lane.device),
      stream_(lane.stream.get()),
      tokens_(batch.tokens()),
      d_(static_cast<size_t>(model.config.model.d)),
      vocabulary_(static_cast<size_t>(model.config.model.vocabulary)),
      attention_{.sequences = batch.sequences,
                 .length = batch.length,
                 .heads = static_cast<size_t>(model.config.model.heads),
                 .head_dim = static_cast<size_t>(model.config.model.head_dim())},
      hashes_(model.plan.blocks.size()) {}

/// Tokens, targets, and the positions of each distinct token, rising.
void DevicePass::UploadBatch() {
  HostBuffers& host = lane_.host;
  std::copy(batch_.inputs.begin(), batch_.inputs.end(), host.ids);
  std::copy(batch_.targets.begin(), batch_.targets.end(), host.targets);
  std::iota(host.positions, host.positions + tokens_, 0u);
  std::stable_sort(host.positions, host.positions + tokens_,
                   [this](uint32_t a, uint32_t b) { return batch_.inputs[a] < batch_.inputs[b]; });
  distinct_ = 0;
  for (size_t i = 0; i < tokens_; ++i) {
    const bool first =
        i == 0 || batch_.inputs[host.positions[i]] != batch_.inputs[host.positions[i - 1]];
    if (first) host.begin[distinct_++] = static_cast<uint32_t>(i);
  }
  host.begin[distinct_] = static_cast<uint32_t>(tokens_);
  lane_.Upload(host.ids, tokens_, on_.ids);
  lane_.Upload(host.targets, tokens_, on_.targets);
  lane_.Upload(host.positions, tokens_, on_.positions);
  lane_.Upload(host.begin, distinct_ + 1, on_.begin);
}

Status DevicePass::Forward() {
  UploadBatch();
  const size_t blocks = model_.plan.blocks.size();
  EmbeddingForward(stream_, Parameter(model_.plan.embed), on_.ids, tokens_, d_,
                   blocks > 0 ? on_.blocks[0].x : on_.x);
  for (size_t i = 0; i < blocks; ++i) {
    float* out = i + 1 < blocks ? on_.blocks[i + 1].x : on_.x;
    if (model_.config.model.projection == Projection::kMemory) {
      MF_RETURN_IF_ERROR(ForwardMemoryBlock(model_.plan.blocks[i], on_.blocks[i], out));
    } else {
      ForwardDenseBlock(model_.plan.blocks[i], on_.blocks[i], out);
    }
  }
  return Status::Ok();
}

/// logits [rows][V] = normed [rows][d] * head [V][d]^T of a slice, and its loss; with `loss_scale`
/// the gradient of the logits takes their place and goes on to the norm and the head.
void DevicePass::LossOf(size_t begin, size_t rows, const double* loss_scale) {
  const float* head = Parameter(model_.plan.head);
  const float* normed = on_.normed + begin * d_;
  lane_.products.Multiply({.m = rows,
                           .n = vocabulary_,
                           .k = d_,
                           .a = {normed, d_},
                           .b = {head, d_, Transpose::kYes},
                           .c = on_.logits,
                           .c_stride = vocabulary_});
  const uint32_t* targets = on_.targets + begin;
  if (loss_scale == nullptr) {
    CrossEntropy(stream_, on_.logits, targets, rows, vocabulary_, on_.nll + begin);
    return;
  }
  CrossEntropyBackward(stream_, on_.logits, targets, rows, vocabulary_,
                       static_cast<float>(*loss_scale), on_.nll + begin);
  lane_.products.Multiply({.m = rows,
                           .n = d_,
                           .k = vocabulary_,
                           .a = {on_.logits, vocabulary_},
                           .b = {head, d_},
                           .c = on_.dnormed + begin * d_,
                           .c_stride = d_});
  lane_.products.Multiply({.m = vocabulary_,
                           .n = d_,
                           .k = rows,
                           .a = {on_.logits, vocabulary_, Transpose::kYes},
                           .b = {normed, d_},
                           .c = Gradient(model_.plan.head),
                           .c_stride = d_,
                           .beta = begin == 0 ? 0.0f : 1.0f});
}

void DevicePass::Score() {
  NormForward(stream_, NormOf(model_.plan.final_norm), on_.x, tokens_, on_.normed);
  for (size_t begin = 0; begin < tokens_; begin += lane_.slice_rows) {
    LossOf(begin, std::min(lane_.slice_rows, tokens_ - begin), nullptr);
  }
  lane_.Download(on_.nll, tokens_, lane_.host.nll);
}

void DevicePass::ScoreAndBackward(double loss_scale) {
  const NormIds& norm = model_.plan.final_norm;
  NormForward(stream_, NormOf(norm), on_.x, tokens_, on_.normed);
  for (size_t begin = 0; begin < tokens_; begin += lane_.slice_rows) {
    LossOf(begin, std::min(lane_.slice_rows, tokens_ - begin), &loss_scale);
  }
  lane_.Download(on_.nll, tokens_, lane_.host.nll);
  BackwardNorm(norm, on_.x, on_.dnormed, nullptr, on_.dx);
}

Status DevicePass::Backward() {
  for (size_t i = model_.plan.blocks.size(); i-- > 0;) {
    if (model_.config.model.projection == Projection::kMemory) {
      MF_RETURN_IF_ERROR(BackwardMemoryBlock(model_.plan.blocks[i], i));
    } else {
      BackwardDenseBlock(model_.plan.blocks[i], on_.blocks[i]);
    }
  }
  float* embed = Gradient(model_.plan.embed);
  EmbeddingBackward(stream_, {distinct_, on_.begin, on_.positions}, on_.dx, d_, embed);
  // All gradients stand in a row, the embedding's last: one copy.
  const auto first = [](const std::vector<float*>& arrays) {
    return *std::min_element(arrays.begin(), arrays.end(), [](const float* a, const float* b) {
      return a != nullptr && (b == nullptr || a < b);
    });
  };
  const float* from = first(on_.gradients);
  lane_.Download(from, static_cast<size_t>(embed - from) + distinct_ * d_,
                 first(lane_.host.gradients));
  return Status::Ok();
}

double DevicePass::TakeLoss() const {
  return std::accumulate(lane_.host.nll, lane_.host.nll + tokens_, 0.0);
}

void DevicePass::TakeLogprobs(std::vector<float>* logprobs) const {
  logprobs->resize(tokens_);
  std::transform(lane_.host.nll, lane_.host.nll + tokens_, logprobs->begin(),
                 [](double nll) { return static_cast<float>(-nll); });
}

void DevicePass::TakeGradients(Compute::Gradients* gradients) const {
  gradients->assign(model_.tensors.size(), {});
  for (const TensorSpec& tensor : model_.tensors) {
    if (tensor.kind != TensorKind::kDense) continue;
    Compute::Gradient& gradient = (*gradients)[tensor.id];
    size_t rows = static_cast<size_t>(tensor.total_rows());
    if (static_cast<int>(tensor.id) == model_.plan.embed) {
      rows = distinct_;
      for (size_t i = 0; i < rows; ++i) {
        gradient.rows.push_back(batch_.inputs[lane_.host.positions[lane_.host.begin[i]]]);
      }
    }
    gradient.values = {lane_.host.gradients[tensor.id], rows * static_cast<size_t>(tensor.columns)};
  }
}

NormParameters DevicePass::NormOf(const NormIds& norm) const {
  return {norm.kind, norm.width, Parameter(norm.gain),
          norm.bias >= 0 ? Parameter(norm.bias) : nullptr};
}

void DevicePass::BackwardNorm(const NormIds& norm, const float* x, const float* dy,
                              const float* residual, float* dx) {
  NormBackward(stream_, NormOf(norm), x, dy, tokens_,
               {.residual = residual,
                .dx = dx,
                .dgain = Gradient(norm.gain),
                .dbias = norm.bias >= 0 ? Gradient(norm.bias) : nullptr},
               on_.sums);
}

void DevicePass::BackwardAttend(const BlockBuffers& block, const float* dout) {
  AttentionBackward(stream_, attention_, {block.qkv, block.attended, block.log_sums},
                    {.dout = dout, .products = on_.products, .dqkv = on_.dqkv});
  RotateBack(stream_, model_.rotary, 2 * attention_.heads, attention_.length, tokens_, 3 * d_,
             on_.dqkv);
}

void DevicePass::BiasGradient(int bias, size_t width, const float* dy) {
  ColumnSums(stream_, dy, tokens_, width, on_.sums, Gradient(bias));
}

}  // namespace mf::cuda
