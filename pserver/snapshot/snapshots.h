// A server's snapshots (DESIGN 2.7): when a step has ended, the rows changed since the last one are
// fixed (pserver/table/table_cut.h) and handed to the writer bit by bit, between requests; they are
// published when all are written. A snapshot that fails costs nothing but itself: the next one
// holds what it would have held. A state machine: threads and files are behind SnapshotWriter and
// SnapshotStore, the time is passed in.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/client/snapshot_plan.h"
#include "common/metrics/metrics.h"
#include "common/net/messages.h"
#include "pserver/snapshot/disk_thread.h"
#include "pserver/snapshot/snapshot_store.h"
#include "pserver/snapshot/snapshot_writer.h"
#include "pserver/table/shard_tables.h"

namespace mf {

/// The records of this step and all later ones, rising (shard 0; else none).
using RecordsFrom = std::function<std::vector<StepRecord>(uint64_t step)>;

class Snapshots {
 public:
  /// All outlive it, and `disk` ends before the store does; `metrics` may be nullptr. What waits
  /// for the disk yields to the pool's caller (ThreadPool::RunAside), or is done on `disk` (none:
  /// at once).
  Snapshots(SnapshotStore& store, SnapshotWriter& writer, DiskThread* disk, ThreadPool& pool,
            Metrics* metrics);
  ~Snapshots();

  SnapshotState State() const { return {store_.Published(), writing()}; }
  /// Of the newest published one that can be read: whose run this folder holds.
  std::optional<SnapshotInfo> NewestInfo() const;

  /// Begins the snapshot of the state after info.step finished steps, which `tables` hold now and
  /// which outlive it; while one is being written, only the last of a run, which then begins when
  /// that is done. `records`: asked once it begins.
  void Begin(const SnapshotInfo& info, ShardTables& tables, const RecordsFrom& records, double now);
  /// Hands over some rows and looks whether the writer is done. True if there is more to do at
  /// once, false if it has to wait for the writer or there is nothing to do.
  bool Work(double now);
  /// Of the one that is being written; 0: none.
  uint64_t writing() const;
  /// SnapshotWriter::late_seconds.
  double late_seconds() const { return writer_.late_seconds(); }

  /// Tells the metrics how old what was last saved is.
  void UpdateAgeMetric(double now);

  /// Forgets the one that is being written.
  void AbandonCurrent();
  /// Soon, on the disk's thread.
  void Discard(const std::vector<uint64_t>& steps);
  /// Goes back: gives up what is being written, deletes all newer than `step` and fills the
  /// tables, which are as made from the seed, from the snapshot of `step` (not 0). kUnavailable if
  /// it cannot be read, naming the file; a damaged one is set aside.
  Status Load(uint64_t step, const std::string& run_id, ShardTables& tables,
              std::vector<StepRecord>* records);
  /// How much of it Load() has read, in percent; no value: nothing is being loaded.
  std::optional<int> loaded_percent() const { return loaded_percent_; }
  /// The same for step 0.
  Status Clear(ChangeClock& clock);
  /// After Clear(), where the run begins with a state that was brought: fills the tables from
  /// kInitialStep of `initial`. What it is not able to read is kFailed.
  Status LoadInitial(SnapshotStore& initial, const std::string& run_id, ShardTables& tables);

 private:
  struct Writing;
  void TryBegin(const SnapshotInfo& info, ShardTables& tables, const RecordsFrom& records,
                double now);
  bool TryWork(double now);
  void FillChunk();
  void Failed(uint64_t step, const Status& status);
  void Finish(const SnapshotWriter::Outcome& outcome, double now);
  /// Does what waits for the disk, and changes what is published.
  Status OnStore(const std::function<Status()>& job);
  Status DeleteNewer(uint64_t step);
  Status DeleteNewerAndRead(uint64_t step, const std::string& run_id, ShardTables& tables,
                            std::vector<StepRecord>* records);
  /// Sets a damaged one aside. Says what went wrong.
  Status Read(SnapshotStore& store, uint64_t step, const std::string& name,
              const std::string& run_id, ShardTables& tables, std::vector<StepRecord>* records);

  SnapshotStore& store_;
  SnapshotWriter& writer_;
  DiskThread* const disk_;
  ThreadPool& pool_;
  Metrics* const metrics_;
  std::optional<int> loaded_percent_;
  std::unique_ptr<Writing> writing_;
  std::function<void(double now)> next_;  // a Begin() that waits for the writer
  // What the store's live database holds: the next snapshot adds what came later.
  uint64_t last_step_ = 0;
  uint64_t last_applied_ = 0;
  int64_t last_clock_ = kNothing;  // rows changed later are not in it
  static constexpr int64_t kNothing = -1;
  bool failing_ = false;  // the last one failed
  // That could not be deleted, and are said so once: they are to be deleted again and again. Of
  // the disk's thread.
  const std::shared_ptr<std::set<uint64_t>> undeletable_ = std::make_shared<std::set<uint64_t>>();
  std::optional<double> saved_at_;  // when the state was last as on disk
};

}  // namespace mf
