// Inside the model: which tensor is what, and what a micro-batch keeps from forward to backward.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "worker/compute/cpu/attention.h"
#include "worker/compute/cpu/chunks.h"
#include "worker/compute/cpu/hash.h"
#include "worker/compute/cpu/rotary.h"
#include "worker/model/model.h"

namespace mf {

/// Tensor ids of a norm; `bias` is -1 for RMSNorm.
struct NormIds {
  NormKind kind = NormKind::kRmsNorm;
  size_t width = 0;
  int gain = -1;
  int bias = -1;
};

/// Tensor ids of a memory layer or of a fully connected layer: `weight` is the tables or the
/// matrix.
struct ProjectionIds {
  size_t in = 0;
  size_t out = 0;
  int weight = -1;
  int bias = -1;
  HashParameters hash;  // memory layers only
};

struct BlockIds {
  size_t layer = 0;
  NormIds norm1, norm2, mid_norm;  // mid_norm: memory only
  ProjectionIds qkv;
  ProjectionIds attention_out;  // dense only
  ProjectionIds first, second;  // M1 and M2, or fc1 and fc2
};

struct Model::Plan {
  Plan(const Config& config, const std::vector<TensorSpec>& tensors);

  int embed = -1;
  std::vector<BlockIds> blocks;
  NormIds final_norm;
  int head = -1;
  Rotary rotary;
};

/// What one block keeps. T = tokens, d = width of the residual stream, w = width of the middle.
struct BlockActivations {
  std::vector<float> x;         // [T][d] input of the block
  std::vector<float> qkv;       // [T][3d] rotated
  std::vector<float> attended;  // [T][d] output of attention
  std::vector<float> log_sums;  // [T][heads]
  std::vector<float> z;         // [T][d] after attention and residual
  std::vector<float> middle;    // [T][w] output of M1 or fc1
  Hashes qkv_hash, first_hash, second_hash;
};

struct Model::Workspace::State {
  std::vector<BlockActivations> blocks;
  std::vector<float> x;         // [T][d] output of the last block
  std::vector<float> normed;    // [T][widest input of a layer]: norms that matrices read
  std::vector<float> wide;      // [T][4d] dense: gelu and its gradient
  std::vector<float> logits;    // [rows of a slice][vocabulary]
  std::vector<double> nll;      // [T]
  std::vector<float> dx;        // [T][d]
  std::vector<float> dnormed;   // [T][...]
  std::vector<float> dweights;  // [pairs][T]
  ChunkSums norm_sums;          // gain, then bias gradients
  ChunkSums bias_sums;
  ThreadScratch attention;
  std::vector<std::array<std::vector<float>, 2>> rows;  // by thread: 64 rows each
};

enum class Targets { kUnused, kNeeded };
/// kInvalid, naming what is wrong, unless `batch` is one that this model takes.
Status CheckBatch(const Config& config, const TokenBatch& batch, Targets targets);

/// Grows, never shrinks: no allocation once warm.
inline float* Need(std::vector<float>& buffer, size_t numbers) {
  if (buffer.size() < numbers) buffer.resize(numbers);
  return buffer.data();
}

}  // namespace mf
