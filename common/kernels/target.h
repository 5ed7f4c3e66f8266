// Which of the instruction sets that the kernels are compiled for this machine runs.
#pragma once

#include <string>

namespace mf {

/// Highway's name of it: "AVX3", "AVX2", "NEON", "SCALAR".
std::string KernelTarget();

}  // namespace mf
