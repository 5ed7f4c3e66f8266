// An emulated GPU: what the CUDA backend uses of the CUDA runtime, in plain C++, so that kernels
// and the host code around them compile with a C++ compiler and run on a CPU. Found before the real
// header by the include path. It is stricter than a GPU where it can be:
//  - threads of a block (fibers) and blocks of a grid run in a random order between barriers;
//  - work on streams waits until the host synchronises; independent streams interleave at random;
//  - fresh memory, shared memory too, is full of NaN; writes beyond shared memory end the program,
//    as do barriers that some threads miss.
// Floating-point results are those of the CPU; TF32 products do not round their inputs.
#pragma once

// Kernels call what CUDA's headers declare without a std::.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __grid_constant__

#include "emulated_gpu/device_functions.h"
#include "emulated_gpu/host_api.h"
#include "emulated_gpu/launch.h"
#include "emulated_gpu/vector_types.h"
#include "emulated_gpu/warp_functions.h"
