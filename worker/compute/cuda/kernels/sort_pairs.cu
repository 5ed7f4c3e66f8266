#include <cub/device/device_radix_sort.cuh>

#include "worker/compute/cuda/kernels/launch.h"
#include "worker/compute/cuda/kernels/sort_pairs.h"

namespace mf::cuda {

size_t SortPairsScratchBytes(size_t count, int key_bits) {
  size_t bytes = 0;
  const uint32_t* const in = nullptr;
  uint32_t* const out = nullptr;
  Check(cub::DeviceRadixSort::SortPairs(nullptr, bytes, in, out, in, out, static_cast<int>(count),
                                        0, key_bits),
        "SortPairs: its scratch memory");
  return bytes;
}

void SortPairs(cudaStream_t stream, const SortedPairs& pairs, size_t count, int key_bits,
               void* scratch, size_t scratch_bytes) {
  if (count == 0) return;
  Check(cub::DeviceRadixSort::SortPairs(scratch, scratch_bytes, pairs.keys, pairs.sorted_keys,
                                        pairs.values, pairs.sorted_values, static_cast<int>(count),
                                        0, key_bits, stream),
        "SortPairs");
}

}  // namespace mf::cuda
