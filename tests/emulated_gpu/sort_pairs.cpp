// The emulated GPU's sort: std::stable_sort as work of the stream, in place of CUB's.
#include "worker/compute/cuda/kernels/sort_pairs.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "worker/compute/cuda/kernels/launch.h"

namespace mf::cuda {
namespace {

constexpr size_t kScratchBytes = 512;  // its guard bytes show whether it was lent whole

struct Work {
  SortedPairs pairs;
  size_t count;
  int key_bits;
  void* scratch;
};

void Sort(void* data) {
  const std::unique_ptr<Work> work(static_cast<Work*>(data));
  const SortedPairs& pairs = work->pairs;
  std::fill_n(static_cast<unsigned char*>(work->scratch), kScratchBytes, 0xEE);
  const auto key = [&](uint32_t i) {
    return pairs.keys[i] & static_cast<uint32_t>((uint64_t{1} << work->key_bits) - 1);
  };
  std::vector<uint32_t> order(work->count);
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return key(a) < key(b); });
  for (size_t i = 0; i < order.size(); ++i) {
    pairs.sorted_keys[i] = pairs.keys[order[i]];
    pairs.sorted_values[i] = pairs.values[order[i]];
  }
}

}  // namespace

size_t SortPairsScratchBytes(size_t /*count*/, int /*key_bits*/) { return kScratchBytes; }

void SortPairs(cudaStream_t stream, const SortedPairs& pairs, size_t count, int key_bits,
               void* scratch, size_t scratch_bytes) {
  if (count == 0) return;
  if (scratch_bytes < kScratchBytes) throw CudaError("SortPairs: too little scratch memory");
  auto work = std::make_unique<Work>(Work{pairs, count, key_bits, scratch});
  Check(cudaLaunchHostFunc(stream, Sort, work.get()), "SortPairs");
  work.release();  // Sort() owns it now
}

}  // namespace mf::cuda
