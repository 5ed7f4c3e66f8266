// What the snapshots of a --data folder hold, as a table for a human. Only reads; works offline and
// beside running servers.
#pragma once

#include <ostream>
#include <string>

#include "common/base/status.h"

namespace mf {

/// `dir` is a --data folder or one shard folder. `verify`: all bytes are read back and checked. A
/// damaged snapshot is kFailed with the first bad file; the table is complete all the same.
Status Inspect(const std::string& dir, bool verify, std::ostream& out);

}  // namespace mf
