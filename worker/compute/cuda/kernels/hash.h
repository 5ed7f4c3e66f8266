// The hash of a memory layer, with the norm before it in the same pass: the formulas of
// worker/compute/cpu/hash.h (eq. 2-4, 9, 10 of the paper, DESIGN section 3).
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "worker/compute/cpu/hash.h"
#include "worker/compute/cpu/norm.h"

namespace mf::cuda {

/// Shared memory that a block of the kernels below takes at most.
size_t HashSharedBytes(const HashParameters& hash);

/// Hashes z = Norm(x), x [tokens][width]: indices (u8, u16 or u32 by hash.index_bytes) and weights,
/// both [pairs][tokens], overwritten.
void HashForward(cudaStream_t stream, const NormParameters& norm, const HashParameters& hash,
                 const float* x, size_t tokens, void* indices, float* weights);

/// dz [tokens][width], overwritten, from dweights [pairs][tokens]; x as given to HashForward.
void HashBackward(cudaStream_t stream, const NormParameters& norm, const HashParameters& hash,
                  const float* x, size_t tokens, const float* dweights, float* dz);

}  // namespace mf::cuda
