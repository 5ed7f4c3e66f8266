// dL/drow = sum of weight * dL/dy over the entries of a met row (eq. 7), one chain of FMAs by
// rising entry for every number. Most rows have few entries and a few may have nearly all, so there
// are two kernels, and each leaves out the rows of the other: a warp a row, with as wide a part of
// it as registers hold; and a block a row, each warp a narrow part of it, with more of dy on its
// way.
#include "worker/compute/cuda/kernels/row_code.h"

namespace mf::cuda {
namespace {

constexpr unsigned kWarps = 8;
constexpr unsigned kThreads = kWarps * kWarp;
constexpr uint32_t kMostOfShort = 64;     // entries of a row that a warp sums alone
constexpr unsigned kVectorsInFlight = 8;  // of dy, per thread, for short rows
constexpr unsigned kLongFlight = 32;      // floats of dy, per thread, for long rows
constexpr unsigned kMostShortBlocks = 4096;
constexpr unsigned kMostLongBlocks = 512;

/// Entries of a row as tokens and weights.
struct Entries {
  const uint32_t* entries;
  const float* weights;
  uint32_t tokens;

  __device__ uint32_t Token(uint32_t entry) const { return entry % tokens; }
};

/// The rows met.
struct Met {
  const uint32_t* begin;
  const uint32_t* count;
};

/// Adds entries [i, i + kFlight) of the 32 whose tokens and weights the lanes hold; `count` of the
/// 32 are there. Vectors of a lane are kWarp apart, `left` is how many there are from `dy` on.
template <class V, unsigned kVectors>
__device__ inline void AddFlight(const V* __restrict__ dy, uint32_t width, uint32_t left,
                                 uint32_t token, float weight, unsigned i, unsigned count,
                                 V (&sum)[kVectors]) {
  constexpr unsigned kFlight = kVectorsInFlight / kVectors;
  V values[kFlight][kVectors];
  float scales[kFlight];
#pragma unroll
  for (unsigned f = 0; f < kFlight; ++f) {
    const uint32_t from = __shfl_sync(kAllLanes, token, static_cast<int>(i + f));
    scales[f] = __shfl_sync(kAllLanes, weight, static_cast<int>(i + f));
    const V* const row = dy + static_cast<uint64_t>(from) * width;
#pragma unroll
    for (unsigned v = 0; v < kVectors; ++v) {
      if (i + f < count && v * kWarp < left) values[f][v] = row[v * kWarp];
    }
  }
#pragma unroll
  for (unsigned f = 0; f < kFlight; ++f) {
#pragma unroll
    for (unsigned v = 0; v < kVectors; ++v) {
      if (i + f < count && v * kWarp < left) AddScaled(scales[f], values[f][v], sum[v]);
    }
  }
}

/// Rows of at most kMostOfShort entries, and all hits. blockIdx.y is a slice of kVectors * kWarp
/// vectors of the `width` of a row.
template <class V, unsigned kVectors>
__global__ void __launch_bounds__(kThreads)
    ShortRows(Entries of, Met met, const V* __restrict__ dy, uint32_t width,
              V* __restrict__ gradients, uint32_t* __restrict__ hits) {
  const uint32_t rows = *met.count;
  const uint32_t c = blockIdx.y * kVectors * kWarp + LaneOfWarp();
  const uint32_t left = c < width ? width - c : 0;
  const uint32_t step = gridDim.x * kWarps;
  for (uint32_t row = blockIdx.x * kWarps + WarpOfBlock(); row < rows; row += step) {
    const uint32_t begin = met.begin[row];
    const uint32_t end = met.begin[row + 1];
    if (blockIdx.y == 0 && LaneOfWarp() == 0) hits[row] = end - begin;
    if (end - begin > kMostOfShort) continue;  // a whole warp
    V sum[kVectors];
#pragma unroll
    for (unsigned v = 0; v < kVectors; ++v) sum[v] = Zero<V>();
    for (uint32_t base = begin; base < end; base += kWarp) {
      const uint32_t entry = of.entries[min(base + LaneOfWarp(), end - 1)];
      const uint32_t token = of.Token(entry);
      const float weight = of.weights[entry];
      const unsigned count = min(kWarp, end - base);
      for (unsigned i = 0; i < count; i += kVectorsInFlight / kVectors) {
        AddFlight<V, kVectors>(dy + c, width, left, token, weight, i, count, sum);
      }
    }
    V* const out = gradients + static_cast<uint64_t>(row) * width + c;
#pragma unroll
    for (unsigned v = 0; v < kVectors; ++v) {
      if (v * kWarp < left) out[v * kWarp] = sum[v];
    }
  }
}

/// Adds `count` staged entries to the thread's column. The whole warp takes part.
__device__ inline float AddStaged(const uint32_t* tokens, const float* weights, unsigned count,
                                  const float* column, uint32_t width, float sum) {
  unsigned i = 0;
  for (; i + kLongFlight <= count; i += kLongFlight) {
    float values[kLongFlight];
#pragma unroll
    for (unsigned f = 0; f < kLongFlight; ++f) {
      values[f] = column[static_cast<uint64_t>(tokens[i + f]) * width];
    }
    // All are asked for before the first is waited for: the compiler would rather save registers,
    // but where long rows are all there is, nothing else hides the wait. (It may move a load from a
    // __restrict__ pointer beyond this, so `column` is none.)
    __syncwarp();
#pragma unroll
    for (unsigned f = 0; f < kLongFlight; ++f) AddScaled(weights[i + f], values[f], sum);
  }
#pragma unroll 8
  for (; i < count; ++i) {
    AddScaled(weights[i], column[static_cast<uint64_t>(tokens[i]) * width], sum);
  }
  return sum;
}

/// The block's sum over entries [begin, end), for the column of each thread: kThreads entries at a
/// time are staged in shared memory, the next ones on their way meanwhile.
__device__ inline float SumOfLongRow(const Entries& of, uint32_t begin, uint32_t end,
                                     const float* column, uint32_t width, uint32_t* tokens,
                                     float* weights) {
  float sum = 0.0f;
  const auto entry_at = [&](uint32_t base) { return of.entries[min(base + threadIdx.x, end - 1)]; };
  uint32_t entry = entry_at(begin);
  float weight = of.weights[entry];
  for (uint32_t base = begin; base < end; base += kThreads) {
    __syncthreads();  // the entries before have been used
    tokens[threadIdx.x] = of.Token(entry);
    weights[threadIdx.x] = weight;
    __syncthreads();
    entry = entry_at(base + kThreads);
    weight = of.weights[entry];
    sum = AddStaged(tokens, weights, min(kThreads, end - base), column, width, sum);
  }
  return sum;
}

/// Rows of more than kMostOfShort entries. blockIdx.y is a slice of kThreads columns. Rows are
/// dealt to blocks one at a time, because long ones may stand side by side; a block looks at
/// kThreads of its own at once, because most are none of its business.
__global__ void __launch_bounds__(kThreads)
    LongRows(Entries of, Met met, const float* dy, uint32_t columns, float* gradients) {
  uint32_t* const begins = SharedMemory<uint32_t>();
  uint32_t* const ends = begins + kThreads;
  uint32_t* const tokens = ends + kThreads;
  float* const weights = reinterpret_cast<float*>(tokens + kThreads);
  uint32_t* const long_rows = tokens + 2 * kThreads;  // [kWarps] a bit for each lane's row
  const uint32_t rows = *met.count;
  const uint32_t c = blockIdx.y * kThreads + threadIdx.x;
  const bool mine = c < columns;
  const uint32_t read = min(c, columns - 1);  // the last ones read a column that is there
  for (uint64_t base = blockIdx.x; base < rows; base += uint64_t{kThreads} * gridDim.x) {
    const uint64_t looked_at = base + uint64_t{threadIdx.x} * gridDim.x;
    uint32_t begin = 0, end = 0;
    if (looked_at < rows) {
      begin = met.begin[looked_at];
      end = met.begin[looked_at + 1];
    }
    const uint32_t found = __ballot_sync(kAllLanes, end - begin > kMostOfShort);
    __syncthreads();  // the rows before have been summed
    begins[threadIdx.x] = begin;
    ends[threadIdx.x] = end;
    if (LaneOfWarp() == 0) long_rows[WarpOfBlock()] = found;
    __syncthreads();
    for (unsigned warp = 0; warp < kWarps; ++warp) {
      for (uint32_t bits = long_rows[warp]; bits != 0; bits &= bits - 1) {
        const unsigned i = warp * kWarp + static_cast<unsigned>(__ffs(static_cast<int>(bits))) - 1;
        const float sum = SumOfLongRow(of, begins[i], ends[i], dy + read, columns, tokens, weights);
        if (mine) gradients[(base + uint64_t{i} * gridDim.x) * columns + c] = sum;
      }
    }
  }
}

/// What a call works on.
struct Work {
  cudaStream_t stream;
  Entries of;
  Met met;
  size_t most_rows;
  size_t columns;
};

template <class V, unsigned kVectors>
void RunShort(const Work& work, const float* dy, float* gradients, uint32_t* hits) {
  const size_t width = work.columns * sizeof(float) / sizeof(V);
  const unsigned blocks = std::min(BlocksFor(work.most_rows, kWarps), kMostShortBlocks);
  Launch("RowGradients", work.stream, dim3(blocks, BlocksFor(width, kVectors * kWarp)), kThreads, 0,
         ShortRows<V, kVectors>, work.of, work.met, reinterpret_cast<const V*>(dy), width,
         reinterpret_cast<V*>(gradients), hits);
}

/// A warp takes up to 4 vectors a lane of a row: one row is short work, so the wider the better, as
/// long as that slice of dy stays in cache while all rows use it (slices come one after the other:
/// blocks start with x, the rows, rising fastest). A prediction, to be measured.
template <class V>
void RunShort(const Work& work, const float* dy, float* gradients, uint32_t* hits) {
  const size_t width = work.columns * sizeof(float) / sizeof(V);
  const auto fits = [&](unsigned vectors) {
    return size_t{work.of.tokens} * vectors * kWarp * sizeof(V) <= kCacheBytes;
  };
  const bool none_fits = !fits(1);
  if (width > 2 * kWarp && (none_fits || fits(4))) {
    RunShort<V, 4>(work, dy, gradients, hits);
  } else if (width > kWarp && (none_fits || fits(2))) {
    RunShort<V, 2>(work, dy, gradients, hits);
  } else {
    RunShort<V, 1>(work, dy, gradients, hits);
  }
}

}  // namespace

void RowGradients(cudaStream_t stream, const Pairs& pairs, const RowGroups& groups, const float* dy,
                  size_t columns, float* gradients, uint32_t* hits) {
  CheckSizes(pairs, columns);
  if (pairs.entries() == 0 || columns == 0) return;
  const Work work = {stream,
                     {groups.entries, pairs.weights, static_cast<uint32_t>(pairs.tokens)},
                     {groups.begin, groups.count},
                     pairs.most_rows(),
                     columns};
  if (ByVectors(columns, {dy, gradients})) {
    RunShort<float4>(work, dy, gradients, hits);
  } else {
    RunShort<float>(work, dy, gradients, hits);
  }
  if (pairs.entries() <= kMostOfShort) return;
  const size_t most_long = std::min(pairs.most_rows(), pairs.entries() / kMostOfShort);
  const unsigned blocks = static_cast<unsigned>(std::min<size_t>(most_long, kMostLongBlocks));
  Launch("RowGradients of long rows", stream, dim3(blocks, BlocksFor(columns, kThreads)), kThreads,
         (4 * kThreads + kWarps) * sizeof(uint32_t), LongRows, work.of, work.met, dy, columns,
         gradients);
}

}  // namespace mf::cuda
