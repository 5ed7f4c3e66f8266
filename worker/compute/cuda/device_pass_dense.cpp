// Blocks of fully connected layers on the GPU: the baseline that the paper compares with.
#include "worker/compute/cuda/device_pass.h"
#include "worker/compute/cuda/kernels/attention.h"
#include "worker/compute/cuda/kernels/norm.h"

namespace mf::cuda {

/// y [T][out] = x [T][in] * weight [in][out], no bias.
void DevicePass::Multiply(const ProjectionIds& layer, const float* x, float* y) {
  lane_.products.Multiply({.m = tokens_,
                           .n = layer.out,
                           .k = layer.in,
                           .a = {x, layer.in},
                           .b = {Parameter(layer.weight), layer.out},
                           .c = y,
                           .c_stride = layer.out});
}

void DevicePass::BackwardMultiply(const ProjectionIds& layer, const float* x, const float* dy,
                                  float* dx) {
  BiasGradient(layer.bias, layer.out, dy);
  lane_.products.Multiply({.m = layer.in,
                           .n = layer.out,
                           .k = tokens_,
                           .a = {x, layer.in, Transpose::kYes},
                           .b = {dy, layer.out},
                           .c = Gradient(layer.weight),
                           .c_stride = layer.out});
  lane_.products.Multiply({.m = tokens_,
                           .n = layer.in,
                           .k = layer.out,
                           .a = {dy, layer.out},
                           .b = {Parameter(layer.weight), layer.out, Transpose::kYes},
                           .c = dx,
                           .c_stride = layer.in});
}

void DevicePass::ForwardDenseBlock(const BlockIds& ids, BlockBuffers& block, float* out) {
  NormForward(stream_, NormOf(ids.norm1), block.x, tokens_, on_.normed);
  Multiply(ids.qkv, on_.normed, block.qkv);
  AddBiasAndRotate(stream_, model_.rotary, 2 * attention_.heads, attention_.length,
                   Parameter(ids.qkv.bias), tokens_, 3 * d_, block.qkv);
  AttentionForward(stream_, attention_, block.qkv, block.attended, block.log_sums);
  Multiply(ids.attention_out, block.attended, block.z);
  AddRows(stream_, block.x, block.z, Parameter(ids.attention_out.bias), tokens_, d_, block.z);

  NormForward(stream_, NormOf(ids.norm2), block.z, tokens_, on_.normed);
  Multiply(ids.first, on_.normed, block.middle);
  AddBias(stream_, Parameter(ids.first.bias), tokens_, ids.first.out, block.middle);
  Gelu(stream_, block.middle, tokens_ * ids.first.out, on_.wide);
  Multiply(ids.second, on_.wide, out);
  AddRows(stream_, block.z, out, Parameter(ids.second.bias), tokens_, d_, out);
}

void DevicePass::BackwardDenseBlock(const BlockIds& ids, const BlockBuffers& block) {
  const size_t wide = tokens_ * ids.first.out;
  Gelu(stream_, block.middle, wide, on_.wide);
  BackwardMultiply(ids.second, on_.wide, on_.dx, on_.dmiddle);
  GeluBackward(stream_, block.middle, on_.dmiddle, wide, on_.dmiddle);
  NormForward(stream_, NormOf(ids.norm2), block.z, tokens_, on_.normed);
  BackwardMultiply(ids.first, on_.normed, on_.dmiddle, on_.dnormed);
  BackwardNorm(ids.norm2, block.z, on_.dnormed, on_.dx, on_.dx);

  BackwardMultiply(ids.attention_out, block.attended, on_.dx, on_.dnormed);
  BackwardAttend(block, on_.dnormed);
  NormForward(stream_, NormOf(ids.norm1), block.x, tokens_, on_.normed);
  BackwardMultiply(ids.qkv, on_.normed, on_.dqkv, on_.dnormed);
  BackwardNorm(ids.norm1, block.x, on_.dnormed, on_.dx, on_.dx);
}

}  // namespace mf::cuda
