// A stable sort of (key, value) by key on the GPU: the one thing that CUB is used for. Including
// CUB costs a minute of compilation and an emulated GPU cannot run it, so it is included by
// sort_pairs.cu only.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace mf::cuda {

/// What SortPairs wants to be lent for this call. Asks the current device.
size_t SortPairsScratchBytes(size_t count, int key_bits);

struct SortedPairs {
  const uint32_t* keys = nullptr;    // [count]
  const uint32_t* values = nullptr;  // [count]
  uint32_t* sorted_keys = nullptr;   // [count]; no two of the four arrays overlap
  uint32_t* sorted_values = nullptr;
};

/// Sorts by bits [0, key_bits) of the keys, key_bits in [1, 32]; pairs with equal bits keep their
/// order. `scratch` is 256-byte aligned. count below 2^31. Throws CudaError.
void SortPairs(cudaStream_t stream, const SortedPairs& pairs, size_t count, int key_bits,
               void* scratch, size_t scratch_bytes);

}  // namespace mf::cuda
