// Which rows a micro-batch meets, with the entries of each, by a sort and the beginnings of its
// runs; and which of those rows the GPU's copy of the tables does not have yet.
#include "worker/compute/cuda/kernels/compact.h"
#include "worker/compute/cuda/kernels/row_code.h"
#include "worker/compute/cuda/kernels/sort_pairs.h"

namespace mf::cuda {
namespace {

constexpr unsigned kThreads = 256;

/// Bits of a row number: at least one, which is what a sort wants.
int KeyBits(const Pairs& pairs) {
  int bits = 1;
  while (bits < 32 && size_t{1} << bits < pairs.rows()) ++bits;
  return bits;
}

/// What RowGroups::scratch holds: arrays one after the other, each 256-byte aligned.
struct Scratch {
  uint32_t* tiles = nullptr;  // first, so that TakeStale finds it without asking how a sort is done
  uint32_t* keys = nullptr;
  uint32_t* sorted_keys = nullptr;
  uint32_t* values = nullptr;
  void* sort = nullptr;
  size_t sort_bytes = 0;
  size_t bytes = 0;
};

uint32_t* TilesOf(void* scratch) { return static_cast<uint32_t*>(scratch); }

Scratch LayOut(const Pairs& pairs, void* base) {
  Scratch scratch;
  char* const begin = static_cast<char*>(base);
  const auto take = [&](size_t bytes) {
    constexpr size_t kAlign = 256;
    void* const at = begin == nullptr ? nullptr : begin + scratch.bytes;
    scratch.bytes += (bytes + kAlign - 1) / kAlign * kAlign;
    return at;
  };
  const size_t count = pairs.entries();
  const auto take_numbers = [&](size_t numbers) {
    return static_cast<uint32_t*>(take(numbers * sizeof(uint32_t)));
  };
  scratch.tiles = take_numbers(BlocksFor(count, kTile));
  scratch.keys = take_numbers(count);
  scratch.sorted_keys = take_numbers(count);
  scratch.values = take_numbers(count);
  scratch.sort_bytes = SortPairsScratchBytes(count, KeyBits(pairs));
  scratch.sort = take(scratch.sort_bytes);
  return scratch;
}

/// Keys and values in the order that a stable sort by row must be given: by table, then by token,
/// then by probe.
__global__ void __launch_bounds__(kThreads)
    MakeKeys(Pairs pairs, uint32_t count, uint32_t* __restrict__ keys,
             uint32_t* __restrict__ values) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= count) return;
  const uint32_t tokens = static_cast<uint32_t>(pairs.tokens);
  const uint32_t probes = static_cast<uint32_t>(pairs.probes);
  const uint32_t of_table = i / probes;  // table * tokens + token
  const uint32_t table = of_table / tokens;
  const uint32_t token = of_table - table * tokens;
  const uint32_t pair = table * probes + (i - of_table * probes);
  keys[i] = RowOf(pairs, pair, token);
  values[i] = pair * tokens + token;
}

/// The first entry of each row among sorted keys.
struct FirstEntries {
  const uint32_t* keys;
  uint32_t count;
  uint32_t* rows;
  uint32_t* begin;

  __device__ uint32_t size() const { return count; }
  __device__ bool Keep(uint32_t i) const { return i == 0 || keys[i] != keys[i - 1]; }
  __device__ void Put(uint32_t i, uint32_t to) const {
    rows[to] = keys[i];
    begin[to] = i;
  }
};

__global__ void __launch_bounds__(kTileThreads)
    PlaceFirstEntries(uint32_t* tiles, uint32_t tile_count, FirstEntries list, uint32_t* count) {
  const uint32_t total = PlacesOfTiles(tiles, tile_count, SharedMemory<uint32_t>());
  if (threadIdx.x != 0) return;
  *count = total;
  list.begin[total] = list.count;
}

/// Rows whose stamps are old. A row is met once, so its stamp is read and written by one thread.
struct StaleRows {
  const uint32_t* rows;
  const uint32_t* count;
  uint64_t now;
  uint64_t* stamps;
  uint32_t* stale;

  __device__ uint32_t size() const { return *count; }
  __device__ bool Keep(uint32_t i) const { return stamps[rows[i]] != now; }
  __device__ void Put(uint32_t i, uint32_t to) const {
    stale[to] = rows[i];
    stamps[rows[i]] = now;
  }
};

__global__ void __launch_bounds__(kTileThreads)
    PlaceStaleRows(uint32_t* tiles, uint32_t tile_count, uint32_t* stale_count) {
  const uint32_t total = PlacesOfTiles(tiles, tile_count, SharedMemory<uint32_t>());
  if (threadIdx.x == 0) *stale_count = total;
}

/// A warp copies a row.
template <class V>
__global__ void __launch_bounds__(kThreads)
    Scatter(const uint32_t* __restrict__ stale, size_t count, const V* __restrict__ values,
            uint32_t width, V* __restrict__ table) {
  const size_t i = static_cast<size_t>(blockIdx.x) * (kThreads / kWarp) + WarpOfBlock();
  if (i >= count) return;
  const V* const from = values + i * width;
  V* const to = table + static_cast<uint64_t>(stale[i]) * width;
#pragma unroll 4
  for (uint32_t c = LaneOfWarp(); c < width; c += kWarp) to[c] = from[c];
}

template <class V>
void RunScatter(cudaStream_t stream, const uint32_t* stale, size_t count, const float* values,
                size_t columns, float* table) {
  Launch("ScatterRows", stream, dim3(BlocksFor(count, kThreads / kWarp)), kThreads, 0, Scatter<V>,
         stale, count, reinterpret_cast<const V*>(values), columns * sizeof(float) / sizeof(V),
         reinterpret_cast<V*>(table));
}

constexpr size_t kWarpCounts = kTileWarps * sizeof(uint32_t);
constexpr size_t kThreadCounts = kTileThreads * sizeof(uint32_t);

}  // namespace

size_t RowGroupsScratchBytes(const Pairs& pairs) {
  CheckSizes(pairs, 0);
  return LayOut(pairs, nullptr).bytes;
}

void GroupByRow(cudaStream_t stream, const Pairs& pairs, const RowGroups& groups) {
  CheckSizes(pairs, 0);
  const size_t count = pairs.entries();
  const Scratch scratch = LayOut(pairs, groups.scratch);
  Launch("GroupByRow: keys", stream, dim3(BlocksFor(count, kThreads)), kThreads, 0, MakeKeys, pairs,
         count, scratch.keys, scratch.values);
  SortPairs(stream, {scratch.keys, scratch.values, scratch.sorted_keys, groups.entries}, count,
            KeyBits(pairs), scratch.sort, scratch.sort_bytes);
  const FirstEntries list = {scratch.sorted_keys, static_cast<uint32_t>(count), groups.rows,
                             groups.begin};
  const unsigned tiles = BlocksFor(count, kTile);
  Launch("GroupByRow: counts", stream, dim3(tiles), kTileThreads, kWarpCounts,
         CountTiles<FirstEntries>, list, scratch.tiles);
  Launch("GroupByRow: places", stream, dim3(1), kTileThreads, kThreadCounts, PlaceFirstEntries,
         scratch.tiles, tiles, list, groups.count);
  Launch("GroupByRow: rows", stream, dim3(tiles), kTileThreads, kWarpCounts, PutTiles<FirstEntries>,
         list, scratch.tiles);
}

void TakeStale(cudaStream_t stream, const Pairs& pairs, const RowGroups& groups, uint64_t now,
               uint64_t* stamps, uint32_t* stale, uint32_t* stale_count) {
  CheckSizes(pairs, 0);
  const StaleRows list = {groups.rows, groups.count, now, stamps, stale};
  uint32_t* const counts = TilesOf(groups.scratch);
  const unsigned tiles = BlocksFor(pairs.most_rows(), kTile);
  Launch("TakeStale: counts", stream, dim3(tiles), kTileThreads, kWarpCounts, CountTiles<StaleRows>,
         list, counts);
  Launch("TakeStale: places", stream, dim3(1), kTileThreads, kThreadCounts, PlaceStaleRows, counts,
         tiles, stale_count);
  Launch("TakeStale: rows", stream, dim3(tiles), kTileThreads, kWarpCounts, PutTiles<StaleRows>,
         list, counts);
}

void ScatterRows(cudaStream_t stream, const uint32_t* stale, size_t count, const float* values,
                 size_t columns, float* table) {
  if (columns == 0) return;
  if (ByVectors(columns, {values, table})) {
    RunScatter<float4>(stream, stale, count, values, columns, table);
  } else {
    RunScatter<float>(stream, stale, count, values, columns, table);
  }
}

}  // namespace mf::cuda
