// A warp per row: rows are some hundred to some thousand numbers, read from memory once and from
// the first-level cache for the second and third pass.
#include "worker/compute/cuda/kernels/column_sums.h"
#include "worker/compute/cuda/kernels/launch.h"
#include "worker/compute/cuda/kernels/norm.h"
#include "worker/compute/cuda/kernels/norm_rows.cuh"

namespace mf::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kRowsPerBlock = kThreads / kWarp;

__global__ void __launch_bounds__(kThreads)
    ForwardKernel(NormParameters norm, const float* __restrict__ x, size_t rows,
                  float* __restrict__ y) {
  const size_t row = blockIdx.x * size_t{kRowsPerBlock} + WarpOfBlock();
  if (row >= rows) return;  // a whole warp
  const float* from = x + row * norm.width;
  float* to = y + row * norm.width;
  const RowStatistics statistics = StatisticsOfRow(norm.kind, from, norm.width);
  for (size_t i = LaneOfWarp(); i < norm.width; i += kWarp) {
    to[i] = Normed(from[i], statistics, norm.gain[i], norm.bias ? norm.bias[i] : 0.0f);
  }
}

/// With g = gain * dy and xhat = (x - mean) * rstd:
/// dx = rstd * (g - xhat * mean(g * xhat) - mean(g)), the last term for LayerNorm only.
/// `dx` may be `residual`: each number is read before it is written, by the thread that writes it.
__global__ void __launch_bounds__(kThreads)
    BackwardKernel(NormParameters norm, const float* __restrict__ x, const float* __restrict__ dy,
                   size_t rows, const float* residual, float* dx,
                   RowStatistics* __restrict__ statistics) {
  const size_t row = blockIdx.x * size_t{kRowsPerBlock} + WarpOfBlock();
  if (row >= rows) return;
  const size_t at = row * norm.width;
  const RowStatistics here = StatisticsOfRow(norm.kind, x + at, norm.width);
  if (LaneOfWarp() == 0) statistics[row] = here;
  float sum_g = 0;
  float sum_gx = 0;
  for (size_t i = LaneOfWarp(); i < norm.width; i += kWarp) {
    const float g = norm.gain[i] * dy[at + i];
    sum_g += g;
    sum_gx += g * Standardised(x[at + i], here);
  }
  const float inverse_width = 1.0f / static_cast<float>(norm.width);
  const float mean_gx = WarpSum(sum_gx) * inverse_width;
  const float mean_of_g = WarpSum(sum_g) * inverse_width;
  const float mean_g = norm.kind == NormKind::kLayerNorm ? mean_of_g : 0.0f;
  for (size_t i = LaneOfWarp(); i < norm.width; i += kWarp) {
    const float g = norm.gain[i] * dy[at + i];
    const float xhat = Standardised(x[at + i], here);
    const float value = here.rstd * (g - xhat * mean_gx - mean_g);
    dx[at + i] = residual ? value + residual[at + i] : value;
  }
}

/// The parts of dgain and dbias that a chunk of rows gives: a thread per column.
__global__ void __launch_bounds__(kThreads)
    GainSumsKernel(const float* __restrict__ x, const float* __restrict__ dy, size_t rows,
                   size_t width, const RowStatistics* __restrict__ statistics,
                   float* __restrict__ dgain, float* __restrict__ dbias) {
  const size_t column = blockIdx.y * size_t{kThreads} + threadIdx.x;
  if (column >= width) return;
  const size_t begin = blockIdx.x * kSumChunk;
  const size_t end = begin + kSumChunk < rows ? begin + kSumChunk : rows;
  float gain = 0;
  float bias = 0;
  for (size_t row = begin; row < end; ++row) {
    const float g = dy[row * width + column];
    gain += g * Standardised(x[row * width + column], statistics[row]);
    bias += g;
  }
  dgain[blockIdx.x * width + column] = gain;
  if (dbias) dbias[blockIdx.x * width + column] = bias;
}

}  // namespace

void NormForward(cudaStream_t stream, const NormParameters& norm, const float* x, size_t rows,
                 float* y) {
  Launch("norm", stream, BlocksFor(rows, kRowsPerBlock), kThreads, 0, ForwardKernel, norm, x, rows,
         y);
}

size_t NormScratch(size_t rows, size_t width) {
  return 2 * rows + 2 * ColumnSumsScratch(rows, width);
}

void NormBackward(cudaStream_t stream, const NormParameters& norm, const float* x, const float* dy,
                  size_t rows, const NormGradients& out, float* scratch) {
  RowStatistics* statistics = reinterpret_cast<RowStatistics*>(scratch);
  float* gain_parts = scratch + 2 * rows;
  float* bias_parts = out.dbias ? gain_parts + ColumnSumsScratch(rows, norm.width) : nullptr;
  // The sums read x and dy, which dx may overwrite (dx == dy is not allowed, dx == residual is).
  Launch("norm backward", stream, BlocksFor(rows, kRowsPerBlock), kThreads, 0, BackwardKernel, norm,
         x, dy, rows, out.residual, out.dx, statistics);
  const dim3 grid(BlocksFor(rows, kSumChunk), BlocksFor(norm.width, kThreads));
  Launch("gain sums", stream, grid, kThreads, 0, GainSumsKernel, x, dy, rows, norm.width,
         statistics, gain_parts, bias_parts);
  AddChunks(stream, gain_parts, rows, norm.width, out.dgain);
  if (out.dbias) AddChunks(stream, bias_parts, rows, norm.width, out.dbias);
}

}  // namespace mf::cuda
