// The final norm, the classifier and the loss. Logits of a large vocabulary would be the largest
// tensor of all, so they exist for a slice of tokens at a time.
#include <algorithm>

#include "worker/compute/cpu/matmul.h"
#include "worker/compute/cpu/softmax.h"
#include "worker/model/model_pass.h"

namespace mf {
namespace {

constexpr size_t kSliceBytes = size_t{64} << 20;  // logits in memory at once
constexpr size_t kRowsPerTask = 8;                // rows of logits per task: no sums across rows

}  // namespace

/// logits [rows][V] = normed [rows][d] * head [V][d]^T.
void Pass::LogitsOf(const float* normed, size_t rows, float* logits) {
  MultiplyTiled({.m = rows,
                 .n = vocabulary_,
                 .k = d_,
                 .a = {normed, d_},
                 .b = {Parameter(plan_.head), d_, Transpose::kYes},
                 .c = logits,
                 .c_stride = vocabulary_,
                 .as_vector = context_ != nullptr},
                pool_);
}

void Pass::Score() {
  const size_t slice = SliceRows(kSliceBytes, vocabulary_, tokens_);
  float* normed = Need(state_.normed, tokens_ * d_);
  float* logits = Need(state_.logits, slice * vocabulary_);
  state_.nll.resize(tokens_);
  Norm(plan_.final_norm, state_.x.data(), normed);
  for (size_t begin = 0; begin < tokens_; begin += slice) {
    const size_t rows = std::min(slice, tokens_ - begin);
    LogitsOf(normed + begin * d_, rows, logits);
    pool_.ParallelFor((rows + kRowsPerTask - 1) / kRowsPerTask, [&](size_t task, int) {
      const size_t end = std::min(rows, (task + 1) * kRowsPerTask);
      for (size_t r = task * kRowsPerTask; r < end; ++r) {
        state_.nll[begin + r] =
            -LogProbability(logits + r * vocabulary_, vocabulary_, batch_.targets[begin + r]);
      }
    });
  }
}

void Pass::ScoreAndBackward(double loss_scale, DenseTensors* gradients) {
  const size_t slice = SliceRows(kSliceBytes, vocabulary_, tokens_);
  const float scale = static_cast<float>(loss_scale);
  float* normed = Need(state_.normed, tokens_ * d_);
  float* dnormed = Need(state_.dnormed, tokens_ * d_);
  float* logits = Need(state_.logits, slice * vocabulary_);
  std::vector<float>& dhead = (*gradients)[static_cast<size_t>(plan_.head)];
  dhead.resize(vocabulary_ * d_);
  state_.nll.resize(tokens_);
  Norm(plan_.final_norm, state_.x.data(), normed);
  for (size_t begin = 0; begin < tokens_; begin += slice) {
    const size_t rows = std::min(slice, tokens_ - begin);
    LogitsOf(normed + begin * d_, rows, logits);
    pool_.ParallelFor((rows + kRowsPerTask - 1) / kRowsPerTask, [&](size_t task, int) {
      const size_t end = std::min(rows, (task + 1) * kRowsPerTask);
      for (size_t r = task * kRowsPerTask; r < end; ++r) {
        state_.nll[begin + r] = -CrossEntropyRow(logits + r * vocabulary_, vocabulary_,
                                                 batch_.targets[begin + r], scale);
      }
    });
    MultiplyTiled({.m = rows,
                   .n = d_,
                   .k = vocabulary_,
                   .a = {logits, vocabulary_},
                   .b = {Parameter(plan_.head), d_},
                   .c = dnormed + begin * d_,
                   .c_stride = d_},
                  pool_);
    MultiplyTiled({.m = vocabulary_,
                   .n = d_,
                   .k = rows,
                   .a = {logits, vocabulary_, Transpose::kYes},
                   .b = {normed + begin * d_, d_},
                   .c = dhead.data(),
                   .c_stride = d_,
                   .beta = begin == 0 ? 0.0f : 1.0f},
                  pool_);
  }
  BackwardNorm(plan_.final_norm, state_.x.data(), dnormed, nullptr, Need(state_.dx, tokens_ * d_),
               gradients);
}

void Pass::LastLogits(std::vector<float>* logits) {
  float* normed = Need(state_.normed, d_);
  NormRows(NormOf(plan_.final_norm), state_.x.data() + (tokens_ - 1) * d_, 1, normed);
  logits->resize(vocabulary_);
  LogitsOf(normed, 1, logits->data());
}

}  // namespace mf
