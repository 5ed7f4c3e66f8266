// How far a GPU may be from the double oracle or from the CPU, relative to the largest number of a
// tensor. On the emulated GPU products are float32, as on the CPU: the bound of model_test. A GPU
// rounds the inputs of its products to TF32, which keeps 11 bits: 2^-11 is 4096 eps, of which sums
// leave a part, and six layers that follow one another pass it on.
#pragma once

#include <limits>

namespace mf {

#ifdef MF_EMULATED_GPU
inline constexpr double kGpuModelTolerance = 1000.0 * std::numeric_limits<float>::epsilon();
#else
inline constexpr double kGpuModelTolerance = 0.02;
#endif

}  // namespace mf
