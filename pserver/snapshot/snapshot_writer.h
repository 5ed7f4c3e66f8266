// Writes increments to a SnapshotStore off the training path: takes rows in chunks and never keeps
// its caller waiting. One increment at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pserver/snapshot/snapshot_store.h"

namespace mf {

/// Entries of an increment, rising.
struct SnapshotChunk {
  struct Entry {
    uint32_t space;
    uint64_t id;
    size_t offset, bytes;  // in `values`
    bool removed = false;  // it is there no more
  };
  std::vector<Entry> entries;
  std::vector<std::byte> values;
};

/// Puts an entry of the chunk into the store's increment, or removes it.
Status AddTo(SnapshotStore& store, const SnapshotChunk& chunk, const SnapshotChunk::Entry& entry);

class SnapshotWriter {
 public:
  struct Outcome {
    Status status;
    PublishStats stats;
  };
  virtual ~SnapshotWriter() = default;
  /// REQUIRES: no increment is open.
  virtual void Begin() = 0;
  /// False if it has to be tried again later: enough is waiting to be written.
  virtual bool Put(SnapshotChunk& chunk) = 0;
  /// After the last Put: publishes. The outcome comes by Poll(), also that of an earlier failure.
  virtual void Publish(const SnapshotInfo& info) = 0;
  /// Once for every Begin(), unless it was abandoned.
  virtual std::optional<Outcome> Poll() = 0;
  /// Forgets the increment, if one is open; returns when the store is left alone.
  virtual void Abandon() = 0;
  /// For how long the store has not ended what it was given, beyond the time that a slow disk needs
  /// for as many bytes; 0: it is well.
  virtual double late_seconds() const = 0;
};

/// On a thread of its own. `store` outlives it.
std::unique_ptr<SnapshotWriter> MakeThreadedSnapshotWriter(SnapshotStore& store);

}  // namespace mf
