// How much of the machine this process may use: all of it, or what a container's limits leave
// (cgroup v1 and v2).
#pragma once

#include <cstdint>
#include <string>

namespace mf {

/// `groups` is where the container sees its own group.
uint64_t MemoryLimitBytes(const std::string& groups = "/sys/fs/cgroup");
/// What tables may take of it where nobody says how much: 70%, the rest is for messages, gradients
/// and the disk's cache.
uint64_t DefaultTableBytes();
/// Threads that can run at once, at least 1; a quota of 1.5 processors is 2. More threads than that
/// would only wait for each other's time.
int CpuLimit(const std::string& groups = "/sys/fs/cgroup");

}  // namespace mf
