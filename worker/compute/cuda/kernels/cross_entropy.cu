// A block per row, read twice: once for the maximum and the sum of exponentials together (each
// thread rescales its own sum when its maximum grows), once more for the gradient.
#include "worker/compute/cuda/kernels/cross_entropy.h"
#include "worker/compute/cuda/kernels/device_code.h"
#include "worker/compute/cuda/kernels/launch.h"

namespace mf::cuda {
namespace {

constexpr unsigned kThreads = 512;
constexpr unsigned kWarps = kThreads / kWarp;

/// The sum of exp(x - maximum) over some numbers x.
struct ExpSum {
  float maximum;
  float sum;
};

/// exp(a - b) where both may be -infinity: nothing was seen yet.
__device__ float Rescale(float a, float b) { return a == b ? 1.0f : expf(a - b); }

/// A NaN in either stays one: fmaxf passes over it, but the sums do not.
__device__ ExpSum Join(const ExpSum& a, const ExpSum& b) {
  const float maximum = fmaxf(a.maximum, b.maximum);
  return {maximum, a.sum * Rescale(a.maximum, maximum) + b.sum * Rescale(b.maximum, maximum)};
}

__device__ ExpSum JoinWarp(ExpSum own) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const ExpSum other{__shfl_xor_sync(kAllLanes, own.maximum, step),
                       __shfl_xor_sync(kAllLanes, own.sum, step)};
    // Lanes swap roles: the lower one comes first in both, so that both get the same bits.
    own = (LaneOfWarp() & static_cast<unsigned>(step)) == 0 ? Join(own, other) : Join(other, own);
  }
  return own;
}

/// Of the whole row, in all threads.
__device__ ExpSum ExpSumOfRow(const float* row, size_t count, ExpSum* of_warps) {
  ExpSum own{-INFINITY, 0};
  for (size_t i = threadIdx.x; i < count; i += kThreads) {
    const float x = row[i];
    if (x > own.maximum) {
      own.sum = own.sum * Rescale(own.maximum, x) + 1;
      own.maximum = x;
    } else {
      own.sum += Rescale(x, own.maximum);
    }
  }
  own = JoinWarp(own);
  if (LaneOfWarp() == 0) of_warps[WarpOfBlock()] = own;
  __syncthreads();
  return JoinWarp(LaneOfWarp() < kWarps ? of_warps[LaneOfWarp()] : ExpSum{-INFINITY, 0});
}

template <bool kGradient>
__global__ void __launch_bounds__(kThreads)
    RowKernel(float* __restrict__ logits, const uint32_t* __restrict__ targets, size_t vocabulary,
              float scale, double* __restrict__ nll) {
  float* row = logits + blockIdx.x * vocabulary;
  const ExpSum all = ExpSumOfRow(row, vocabulary, SharedMemory<ExpSum>());
  const uint32_t target = targets[blockIdx.x];
  const float at_target = row[target];
  if (threadIdx.x == 0) {
    nll[blockIdx.x] = log(static_cast<double>(all.sum)) -
                      (static_cast<double>(at_target) - static_cast<double>(all.maximum));
  }
  if constexpr (kGradient) {
    __syncthreads();  // every thread has read the target's logit
    const float factor = scale / all.sum;
    for (size_t i = threadIdx.x; i < vocabulary; i += kThreads) {
      const float share = expf(row[i] - all.maximum) * factor;
      row[i] = i == target ? share - scale : share;
    }
  }
}

}  // namespace

void CrossEntropy(cudaStream_t stream, const float* logits, const uint32_t* targets, size_t rows,
                  size_t vocabulary, double* nll) {
  // Without a gradient the kernel only reads.
  Launch("cross entropy", stream, static_cast<unsigned>(rows), kThreads, kWarps * sizeof(ExpSum),
         RowKernel<false>, const_cast<float*>(logits), targets, vocabulary, 0.0f, nll);
}

void CrossEntropyBackward(cudaStream_t stream, float* logits, const uint32_t* targets, size_t rows,
                          size_t vocabulary, float scale, double* nll) {
  Launch("cross entropy backward", stream, static_cast<unsigned>(rows), kThreads,
         kWarps * sizeof(ExpSum), RowKernel<true>, logits, targets, vocabulary, scale, nll);
}

}  // namespace mf::cuda
