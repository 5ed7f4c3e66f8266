// The memory of the emulated GPU: plain memory of the process, of which records are kept.
#pragma once

#include <cstddef>

namespace mf::emulated_gpu {

/// How much there is: MF_EMULATED_GPU_BYTES in the environment, or 8 GiB.
size_t DeviceBytes();

/// Whether all the bytes lie in one allocation of the GPU's memory. Any thread.
bool InDeviceMemory(const void* from, size_t bytes);

}  // namespace mf::emulated_gpu
