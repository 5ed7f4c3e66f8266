// Snapshots that are only looked at: what a shard needs of a store, over a reader. Nothing on disk
// changes; writing is refused.
#pragma once

#include <memory>
#include <utility>

#include "pserver/snapshot/snapshot_store.h"
#include "pserver/snapshot/snapshot_writer.h"

namespace mf {

class ReadOnlyStore final : public SnapshotStore {
 public:
  explicit ReadOnlyStore(std::unique_ptr<SnapshotReader> reader) : reader_(std::move(reader)) {}

  std::vector<uint64_t> Published() const override { return reader_->Published(); }
  Result<SnapshotSummary> Summary(uint64_t step) const override { return reader_->Summary(step); }
  Result<SnapshotInfo> Info(uint64_t step) const override { return reader_->Info(step); }
  Status VerifyFiles(uint64_t step) const override { return reader_->VerifyFiles(step); }
  Result<std::unique_ptr<SnapshotCursor>> Open(uint64_t step) const override {
    return reader_->Open(step);
  }
  Result<SnapshotInfo> Read(uint64_t step, const SnapshotVisit& visit) override {
    return reader_->Read(step, visit);
  }

  Status Begin() override { return ReadOnly(); }
  Status Put(uint32_t, uint64_t, const void*, size_t) override { return ReadOnly(); }
  Status Publish(const SnapshotInfo&) override { return ReadOnly(); }
  void Abandon() override {}
  // Newer ones stay where they are, and damaged ones are named by Read().
  Status Delete(uint64_t) override { return Status::Ok(); }
  Status Reset(uint64_t) override { return Status::Ok(); }
  Status Quarantine(uint64_t) override { return ReadOnly(); }
  PublishStats last_publish() const override { return {}; }
  void WaitForMerge() override {}

 private:
  static Status ReadOnly() { return Status::Failed("these snapshots are only read here"); }
  const std::unique_ptr<SnapshotReader> reader_;
};

}  // namespace mf
