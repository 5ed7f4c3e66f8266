// Fills a server's tables from the entries of one of its snapshots.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/base/thread_pool.h"
#include "common/net/step.h"
#include "pserver/snapshot/snapshot_store.h"
#include "pserver/table/shard_tables.h"

namespace mf {

/// One entry, in their order, into `tables`, which were as made from the seed; the records of steps
/// (shard 0 has them) go to `records`. kDamaged if it is none of this run.
Status LoadEntry(uint32_t space, uint64_t id, const std::byte* data, size_t bytes,
                 ShardTables& tables, std::vector<StepRecord>* records);

/// After all entries of the snapshot `info`. kDamaged if they are not those of `step` of the run.
Status CheckLoaded(const SnapshotInfo& info, uint64_t step, const std::string& run_id,
                   const ShardTables& tables);

/// Both for a whole snapshot. It is read on a thread of its own, a few MiB ahead; the caller of
/// `pool` fills the tables and yields meanwhile (ThreadPool::Yield). `progress` is told which part
/// of the entries is there, 0 to 1. What the store or the memory lacks comes back as it is.
Status LoadSnapshot(SnapshotStore& store, uint64_t step, const std::string& run_id,
                    ShardTables& tables, std::vector<StepRecord>* records, ThreadPool& pool,
                    const std::function<void(double)>& progress);

}  // namespace mf
