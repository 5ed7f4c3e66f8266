// Rows whose value is a function of a seed and of the step that wrote them last, and a writer that
// publishes them step by step: whoever finds a snapshot of step n knows every byte that has to be
// in it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "pserver/snapshot/snapshot_rocksdb.h"
#include "tests/support/snapshots/snapshot_model.h"

namespace mf {

/// Steps that the writer keeps.
inline constexpr size_t kVersionedKeep = 2;

/// What the store has to hold after `step`. All rows change at every sixth step, a tenth otherwise.
Entries VersionedRows(uint64_t seed, uint64_t step);

/// Opens the store in `folder`, goes on after its newest step, calls `published` after each one and
/// then deletes those that are too old. Ends after `steps` of them, or with an error.
Status PublishVersionedRows(const std::string& folder, uint64_t seed, uint64_t steps,
                            const std::function<Status(uint64_t step)>& published);

/// Ok if all snapshots in `folder` are whole and right, if there are as many as are kept, at most
/// one more, and if the newest is `reported` or the one after it.
Status CheckVersionedRows(const std::string& folder, uint64_t seed, uint64_t reported);

}  // namespace mf
