// Snapshots of S servers become snapshots of N servers: rows are joined over the sources and cut
// anew (DESIGN 2.2), as a stream, in the memory of one row and of one set of keys.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "common/base/status.h"

namespace mf {

struct ReshardOptions {
  std::string from;  // a run's folder
  std::string to;    // the same run's, without shards in it, or none yet
  uint32_t shards = 1;
  uint64_t step = 0;  // 0: the newest that all sources have
};

struct ReshardReport {
  uint64_t step = 0;
  uint32_t from_shards = 0;
  uint64_t rows = 0;
  uint64_t bytes = 0;  // of the tables written
};

/// Called now and then.
using ReshardProgress = std::function<void(uint64_t rows_done, uint64_t rows)>;

/// The sources are only read, and not while a server runs on one. Everything is written beside its
/// place and moved there at the end; while that lasts, and after a crash, no server starts on `to`.
Result<ReshardReport> Reshard(const ReshardOptions& options, const ReshardProgress& progress);

}  // namespace mf
