#include "common/base/machine_limits.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <thread>

namespace mf {
namespace {

/// The number that stands first in a file; 0 for "max" (no limit) and where there is no such file.
double FirstNumber(std::ifstream& in) {
  double number = 0;
  return in >> number ? number : 0;
}

}  // namespace

uint64_t MemoryLimitBytes(const std::string& groups) {
  uint64_t limit = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
                   static_cast<uint64_t>(sysconf(_SC_PAGE_SIZE));
  // v1 says a huge number where there is no limit.
  for (const char* name : {"/memory.max", "/memory/memory.limit_in_bytes"}) {
    uint64_t bytes = 0;
    if (std::ifstream(groups + name) >> bytes && bytes > 0) limit = std::min(limit, bytes);
  }
  return limit;
}

uint64_t DefaultTableBytes() { return MemoryLimitBytes() / 10 * 7; }

int CpuLimit(const std::string& groups) {
  double processors = std::max(1u, std::thread::hardware_concurrency());
  std::ifstream v2(groups + "/cpu.max"), quota_v1(groups + "/cpu/cpu.cfs_quota_us"),
      period_v1(groups + "/cpu/cpu.cfs_period_us");
  for (auto* files : {&v2, &quota_v1}) {
    const double quota = FirstNumber(*files);
    const double period = FirstNumber(files == &v2 ? v2 : period_v1);
    if (quota > 0 && period > 0) processors = std::min(processors, std::ceil(quota / period));
  }
  return std::max(1, static_cast<int>(processors));
}

}  // namespace mf
