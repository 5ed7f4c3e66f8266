// RMSNorm and LayerNorm over rows of `width` numbers, eps kNormEps: the formulas of
// worker/compute/cpu/norm.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "worker/compute/cpu/norm.h"

namespace mf::cuda {

/// y [rows][width] = Norm(x), overwritten. Gain and bias of `norm` are on the GPU.
void NormForward(cudaStream_t stream, const NormParameters& norm, const float* x, size_t rows,
                 float* y);

/// Floats of scratch that NormBackward needs.
size_t NormScratch(size_t rows, size_t width);

/// As NormBackwardRows of the CPU, on the GPU; out.dgain and out.dbias are whole sums over all
/// rows, made of one partial sum per 64 rows, added in order.
void NormBackward(cudaStream_t stream, const NormParameters& norm, const float* x, const float* dy,
                  size_t rows, const NormGradients& out, float* scratch);

}  // namespace mf::cuda
