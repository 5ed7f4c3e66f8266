// How fast this GPU copies: for people, never for decisions.
#pragma once

#include <string>

namespace mf::cuda {

/// "55 GB/s to the GPU, 53 GB/s from it, 2400 GB/s within": pinned copies of 64 MiB, and reads and
/// writes within the GPU's memory, measured now (some milliseconds). Throws CudaError.
std::string MeasureCopies();

}  // namespace mf::cuda
