#include "worker/model/model_pass.h"

#include <algorithm>

#include "common/base/check.h"
#include "worker/compute/cpu/embedding.h"

namespace mf {

Pass::Pass(const Model& model, const DenseTensors& parameters, const TokenBatch& batch,
           Exchange& exchange, Model::Workspace& workspace, Model::Context* context)
    : config_(model.config_),
      tensors_(model.tensors_),
      plan_(*model.plan_),
      pool_(model.pool_),
      parameters_(parameters),
      batch_(batch),
      exchange_(exchange),
      state_(*workspace.state),
      context_(context),
      tokens_(batch.tokens()),
      d_(static_cast<size_t>(config_.model.d)),
      vocabulary_(static_cast<size_t>(config_.model.vocabulary)),
      attention_{.sequences = batch.sequences,
                 .length = batch.length,
                 .heads = static_cast<size_t>(config_.model.heads),
                 .head_dim = static_cast<size_t>(config_.model.head_dim())} {
  const size_t threads = static_cast<size_t>(pool_.threads());
  if (state_.attention.size() < threads) state_.attention.resize(threads);
  if (state_.rows.size() < threads) state_.rows.resize(threads);
  state_.blocks.resize(plan_.blocks.size());
  if (context_ != nullptr) context_->qkv_.resize(plan_.blocks.size());
}

Status Pass::Forward() {
  const size_t blocks = plan_.blocks.size();
  float* first = Need(blocks > 0 ? state_.blocks[0].x : state_.x, tokens_ * d_);
  EmbeddingForward({tokens_, vocabulary_, d_}, Parameter(plan_.embed), batch_.inputs.data(), pool_,
                   first);
  for (size_t i = 0; i < blocks; ++i) {
    float* out = Need(i + 1 < blocks ? state_.blocks[i + 1].x : state_.x, tokens_ * d_);
    if (config_.model.projection == Projection::kMemory) {
      MF_RETURN_IF_ERROR(ForwardMemoryBlock(plan_.blocks[i], state_.blocks[i], out));
    } else {
      ForwardDenseBlock(plan_.blocks[i], state_.blocks[i], out);
    }
  }
  return Status::Ok();
}

Status Pass::Backward(DenseTensors* gradients) {
  for (size_t i = plan_.blocks.size(); i-- > 0;) {
    if (config_.model.projection == Projection::kMemory) {
      MF_RETURN_IF_ERROR(BackwardMemoryBlock(plan_.blocks[i], state_.blocks[i], gradients));
    } else {
      BackwardDenseBlock(plan_.blocks[i], state_.blocks[i], gradients);
    }
  }
  std::vector<float>& dembed = (*gradients)[static_cast<size_t>(plan_.embed)];
  const std::vector<uint64_t> distinct = DistinctTokens(batch_.inputs);
  dembed.resize(distinct.size() * d_);
  EmbeddingBackward({tokens_, vocabulary_, d_}, batch_.inputs.data(), distinct, state_.dx.data(),
                    pool_, dembed.data());
  return Status::Ok();
}

const float* Pass::Parameter(int id) const {
  const std::vector<float>& values = parameters_[static_cast<size_t>(id)];
  MF_CHECK(!values.empty());
  return values.data();
}

NormParameters Pass::NormOf(const NormIds& norm) const {
  return {norm.kind, norm.width, Parameter(norm.gain),
          norm.bias >= 0 ? Parameter(norm.bias) : nullptr};
}

NormGradients Pass::NormSums(const NormIds& norm, const Chunk& chunk, float* dx) {
  float* sums = state_.norm_sums.At(chunk.index);
  return {.residual = nullptr,
          .dx = dx,
          .dgain = sums,
          .dbias = norm.bias >= 0 ? sums + norm.width : nullptr};
}

void Pass::TakeNormSums(const NormIds& norm, DenseTensors* gradients) {
  state_.norm_sums.Total(0, norm.width, &(*gradients)[static_cast<size_t>(norm.gain)]);
  if (norm.bias < 0) return;
  state_.norm_sums.Total(norm.width, 2 * norm.width, &(*gradients)[static_cast<size_t>(norm.bias)]);
}

float* Pass::Rows(int thread, size_t which, size_t width) {
  return Need(state_.rows[static_cast<size_t>(thread)][which], kTokenChunk * width);
}

void Pass::Norm(const NormIds& norm, const float* x, float* y) {
  const NormParameters parameters = NormOf(norm);
  ForChunks(tokens_, pool_, [&](const Chunk& chunk) {
    const size_t at = chunk.begin * norm.width;
    NormRows(parameters, x + at, chunk.count, y + at);
  });
}

void Pass::BackwardNorm(const NormIds& norm, const float* x, const float* dy, const float* residual,
                        float* dx, DenseTensors* gradients) {
  const NormParameters parameters = NormOf(norm);
  state_.norm_sums.Reset(tokens_, 2 * norm.width);
  ForChunks(tokens_, pool_, [&](const Chunk& chunk) {
    const size_t at = chunk.begin * norm.width;
    NormGradients out = NormSums(norm, chunk, dx + at);
    if (residual) out.residual = residual + at;
    NormBackwardRows(parameters, x + at, dy + at, chunk.count, out);
  });
  TakeNormSums(norm, gradients);
}

void Pass::AddBias(int bias, size_t width, float* y) {
  const float* b = Parameter(bias);
  ForChunks(tokens_, pool_, [&](const Chunk& chunk) {
    for (size_t t = chunk.begin; t < chunk.begin + chunk.count; ++t) {
      for (size_t i = 0; i < width; ++i) y[t * width + i] += b[i];
    }
  });
}

void Pass::AddBiasAndRotate(int bias, float* qkv) {
  const float* b = Parameter(bias);
  const size_t width = 3 * d_;
  ForChunks(tokens_, pool_, [&](const Chunk& chunk) {
    for (size_t t = chunk.begin; t < chunk.begin + chunk.count; ++t) {
      float* row = qkv + t * width;
      for (size_t i = 0; i < width; ++i) row[i] += b[i];
      // Queries and keys are neighbours: twice as many heads.
      plan_.rotary.Apply(PositionOf(t), 2 * attention_.heads, row);
    }
  });
}

size_t Pass::PositionOf(size_t token) const {
  return token % batch_.length + (context_ != nullptr ? context_->length() : 0);
}

void Pass::Attend(const BlockIds& ids, BlockActivations& block) {
  float* attended = Need(block.attended, tokens_ * d_);
  float* log_sums = Need(block.log_sums, tokens_ * attention_.heads);
  if (context_ == nullptr) {
    AttentionForward(attention_, block.qkv.data(), pool_, state_.attention, attended, log_sums);
    return;
  }
  const size_t before = context_->length();
  const size_t row = 3 * d_;
  AttentionShape whole = attention_;
  whole.sequences = 1;
  whole.length = before + batch_.length;
  std::vector<float>& qkv = context_->qkv_[ids.layer];
  Need(qkv, whole.length * row);
  // One after the other takes the place after the context.
  for (size_t begin = 0; begin < tokens_; begin += batch_.length) {
    std::copy_n(block.qkv.data() + begin * row, batch_.length * row, qkv.data() + before * row);
    AttentionFrom(before, whole, qkv.data(), pool_, state_.attention, attended + begin * d_,
                  log_sums + begin * attention_.heads);
  }
}

void Pass::BackwardAttend(const BlockActivations& block, const float* dout, float* dqkv) {
  AttentionBackward(attention_, {block.qkv.data(), block.attended.data(), block.log_sums.data()},
                    dout, pool_, state_.attention, dqkv);
  ForChunks(tokens_, pool_, [&](const Chunk& chunk) {
    for (size_t t = chunk.begin; t < chunk.begin + chunk.count; ++t) {
      plan_.rotary.ApplyInverse(t % batch_.length, 2 * attention_.heads, dqkv + t * 3 * d_);
    }
  });
}

void Pass::AddRows(const float* a, const float* b, int bias, float* out) {
  const float* add = bias >= 0 ? Parameter(bias) : nullptr;
  ForChunks(tokens_, pool_, [&](const Chunk& chunk) {
    for (size_t t = chunk.begin; t < chunk.begin + chunk.count; ++t) {
      const size_t at = t * d_;
      for (size_t i = 0; i < d_; ++i) out[at + i] = a[at + i] + b[at + i];
      if (add == nullptr) continue;
      for (size_t i = 0; i < d_; ++i) out[at + i] += add[i];
    }
  });
}

void Pass::BiasGradient(int bias, size_t width, const float* dy, DenseTensors* gradients) {
  state_.bias_sums.Reset(tokens_, width);
  ForChunks(tokens_, pool_, [&](const Chunk& chunk) {
    SumRows(dy + chunk.begin * width, chunk.count, width, state_.bias_sums.At(chunk.index));
  });
  state_.bias_sums.Total(0, width, &(*gradients)[static_cast<size_t>(bias)]);
}

}  // namespace mf
