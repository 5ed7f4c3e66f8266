// Reading one snapshot, step-<n>/: used by the store, and alone by programs that must not touch the
// folder (pserver inspect, reshard).
#pragma once

#include <memory>
#include <string>

#include "pserver/snapshot/snapshot_digest.h"
#include "pserver/snapshot/snapshot_store.h"

namespace mf {

/// The snapshot in `folder`, its small files and the tails of its tables checked.
Result<std::unique_ptr<SnapshotCursor>> OpenSnapshotCursor(const std::string& folder);
Result<SnapshotInfo> ReadSnapshot(const std::string& folder, const SnapshotVisit& visit);
Result<SnapshotSummary> SummaryOfSnapshot(const std::string& folder);
/// Every byte of every file.
Status VerifySnapshotFiles(const std::string& folder);

}  // namespace mf
