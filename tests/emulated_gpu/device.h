// Errors, as the calls of the runtime's interface give them back.
#pragma once

#include "emulated_gpu/host_api.h"

namespace mf::emulated_gpu {

/// Remembers `error` for this thread's cudaGetLastError() and returns it.
cudaError_t Failed(cudaError_t error);

}  // namespace mf::emulated_gpu
