// Blocks of fully connected layers: the baseline that the paper compares with.
#include "worker/compute/cpu/gelu.h"
#include "worker/compute/cpu/matmul.h"
#include "worker/model/model_pass.h"

namespace mf {

/// y [T][out] = x [T][in] * weight [in][out], no bias.
void Pass::Multiply(const ProjectionIds& layer, const float* x, float* y) {
  MultiplyTiled({.m = tokens_,
                 .n = layer.out,
                 .k = layer.in,
                 .a = {x, layer.in},
                 .b = {Parameter(layer.weight), layer.out},
                 .c = y,
                 .c_stride = layer.out,
                 .as_vector = context_ != nullptr},
                pool_);
}

void Pass::BackwardMultiply(const ProjectionIds& layer, const float* x, const float* dy, float* dx,
                            DenseTensors* gradients) {
  BiasGradient(layer.bias, layer.out, dy, gradients);
  std::vector<float>& dweight = (*gradients)[static_cast<size_t>(layer.weight)];
  dweight.resize(layer.in * layer.out);
  MultiplyTiled({.m = layer.in,
                 .n = layer.out,
                 .k = tokens_,
                 .a = {x, layer.in, Transpose::kYes},
                 .b = {dy, layer.out},
                 .c = dweight.data(),
                 .c_stride = layer.out},
                pool_);
  MultiplyTiled({.m = tokens_,
                 .n = layer.in,
                 .k = layer.out,
                 .a = {dy, layer.out},
                 .b = {Parameter(layer.weight), layer.out, Transpose::kYes},
                 .c = dx,
                 .c_stride = layer.in},
                pool_);
}

void Pass::ForwardDenseBlock(const BlockIds& ids, BlockActivations& block, float* out) {
  float* normed = Need(state_.normed, tokens_ * d_);
  Norm(ids.norm1, block.x.data(), normed);
  float* qkv = Need(block.qkv, tokens_ * 3 * d_);
  Multiply(ids.qkv, normed, qkv);
  AddBiasAndRotate(ids.qkv.bias, qkv);
  Attend(ids, block);
  float* z = Need(block.z, tokens_ * d_);
  Multiply(ids.attention_out, block.attended.data(), z);
  AddRows(block.x.data(), z, ids.attention_out.bias, z);

  Norm(ids.norm2, z, normed);
  const size_t middle_width = ids.first.out;
  float* middle = Need(block.middle, tokens_ * middle_width);
  Multiply(ids.first, normed, middle);
  AddBias(ids.first.bias, middle_width, middle);
  float* wide = Need(state_.wide, tokens_ * middle_width);
  ForChunks(tokens_, pool_, [&](const Chunk& chunk) {
    const size_t at = chunk.begin * middle_width;
    Gelu(middle + at, chunk.count * middle_width, wide + at);
  });
  Multiply(ids.second, wide, out);
  AddRows(z, out, ids.second.bias, out);
}

void Pass::BackwardDenseBlock(const BlockIds& ids, const BlockActivations& block,
                              DenseTensors* gradients) {
  const size_t middle_width = ids.first.out;
  const float* middle = block.middle.data();
  float* dx = state_.dx.data();
  float* normed = Need(state_.normed, tokens_ * d_);
  float* wide = Need(state_.wide, tokens_ * middle_width);
  // dnormed [T][d], then dattended [T][d], then dqkv [T][3d].
  float* dnormed = Need(state_.dnormed, tokens_ * (4 * d_ + middle_width));
  float* dqkv = dnormed + tokens_ * d_;
  float* dmiddle = dqkv + tokens_ * 3 * d_;

  const auto for_rows = [&](auto body) {
    ForChunks(tokens_, pool_, [&](const Chunk& chunk) {
      body(chunk.begin * middle_width, chunk.count * middle_width);
    });
  };
  for_rows([&](size_t at, size_t count) { Gelu(middle + at, count, wide + at); });
  BackwardMultiply(ids.second, wide, dx, dmiddle, gradients);
  for_rows([&](size_t at, size_t count) {
    GeluBackward(middle + at, dmiddle + at, count, dmiddle + at);
  });
  Norm(ids.norm2, block.z.data(), normed);
  BackwardMultiply(ids.first, normed, dmiddle, dnormed, gradients);
  BackwardNorm(ids.norm2, block.z.data(), dnormed, dx, dx, gradients);

  BackwardMultiply(ids.attention_out, block.attended.data(), dx, dnormed, gradients);
  BackwardAttend(block, dnormed, dqkv);
  Norm(ids.norm1, block.x.data(), normed);
  BackwardMultiply(ids.qkv, normed, dqkv, dnormed, gradients);
  BackwardNorm(ids.norm1, block.x.data(), dnormed, dx, dx, gradients);
}

}  // namespace mf
