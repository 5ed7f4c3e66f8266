// A server's disk in the simulation: published steps survive the death of the process, everything
// else is lost with it. The writer takes simulated time and may fail as on a full disk. Neither
// runs out of memory.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pserver/snapshot/snapshot_key.h"
#include "pserver/snapshot/snapshot_store.h"
#include "pserver/snapshot/snapshot_writer.h"

namespace mf::simulation {

using Entries = std::map<SnapshotKey, std::string>;

struct Snapshot {
  SnapshotInfo info;
  Entries entries;
  bool damaged = false;
};

/// What outlives a server's process.
struct Disk {
  std::map<uint64_t, Snapshot> published;
  uint64_t boot_count = 0;
  bool full = false;
};

/// The process's view of its disk, with the live database, which dies with it.
class SimulatedStore final : public SnapshotStore {
 public:
  explicit SimulatedStore(Disk& disk) : disk_(disk) {}

  std::vector<uint64_t> Published() const override;
  Result<SnapshotSummary> Summary(uint64_t step) const override;
  Result<SnapshotInfo> Info(uint64_t step) const override;
  Status VerifyFiles(uint64_t step) const override { return Info(step).status(); }
  Result<std::unique_ptr<SnapshotCursor>> Open(uint64_t step) const override;
  Result<SnapshotInfo> Read(uint64_t step, const SnapshotVisit& visit) override;

  Status Begin() override;
  Status Put(uint32_t space, uint64_t id, const void* data, size_t bytes) override;
  Status Remove(uint32_t space, uint64_t id) override;
  Status Publish(const SnapshotInfo& info) override;
  void Abandon() override { increment_.clear(); }
  Status Delete(uint64_t step) override;
  Status Reset(uint64_t step) override;
  Status Quarantine(uint64_t step) override;
  PublishStats last_publish() const override { return {}; }
  void WaitForMerge() override {}

  /// Whether a publish that fails has yet changed the live database.
  bool failure_leaves_increment = false;

 private:
  Disk& disk_;
  bool usable_ = false;  // Reset() since the start of the process
  Entries live_;
  std::map<SnapshotKey, std::optional<std::string>> increment_;  // none: removed
};

/// Does nothing by itself: the simulation is told of an increment's end and says when it has come.
class SimulatedWriter final : public SnapshotWriter {
 public:
  /// `begun` is called when the last row has been handed over.
  SimulatedWriter(SimulatedStore& store, std::function<void(uint64_t increment)> begun)
      : store_(store), begun_(std::move(begun)) {}

  void Begin() override;
  bool Put(SnapshotChunk& chunk) override;
  void Publish(const SnapshotInfo& info) override;
  std::optional<Outcome> Poll() override;
  void Abandon() override;
  double late_seconds() const override { return 0; }

  /// The time of increment `increment` has come: it is published, or fails. Nothing if it was
  /// abandoned.
  void Complete(uint64_t increment);
  /// The same for the one that is open.
  void Complete() { Complete(increment_); }
  /// Takes no rows for a moment.
  bool busy = false;

 private:
  SimulatedStore& store_;
  const std::function<void(uint64_t)> begun_;
  uint64_t increment_ = 0;
  bool open_ = false;
  std::vector<SnapshotChunk> chunks_;
  std::optional<SnapshotInfo> info_;
  std::optional<Outcome> outcome_;
};

}  // namespace mf::simulation
