// Names of published snapshots, and copies of a database that share its tables.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/files.h"

namespace mf {

/// `to` becomes the same database as `from`: tables by LinkOrCopy(), the rest by copies, because
/// RocksDB appends to those. Files named in `leave` are left out.
Status LinkDatabase(const std::string& from, const std::string& to, const std::string& leave);

/// n of "step-<n>" with n >= 1 written in the plain way, else 0.
uint64_t StepOfName(const std::string& name);
/// The steps published in the folder, rising.
std::vector<uint64_t> StepsIn(const std::string& folder);
inline std::string StepPath(const std::string& folder, uint64_t step) {
  return folder + "/step-" + std::to_string(step);
}

}  // namespace mf
