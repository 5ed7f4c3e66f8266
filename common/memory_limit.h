// How much memory this process may use.
#pragma once

#include <cstdint>

namespace mf {

/// The machine's memory, or less where a container's limit (cgroup v1 or v2) is below it.
uint64_t MemoryLimitBytes();

}  // namespace mf
