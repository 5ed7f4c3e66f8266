#include "pserver/snapshot/snapshot_load.h"

#include <algorithm>
#include <deque>
#include <exception>
#include <optional>
#include <thread>
#include <utility>

#include "common/base/buffer.h"
#include "common/base/mutex.h"
#include "pserver/snapshot/snapshot_format.h"
#include "pserver/snapshot/snapshot_writer.h"

namespace mf {
namespace {

Status Load(uint32_t space, uint64_t id, const std::byte* data, size_t bytes, ShardTables& tables,
            std::vector<StepRecord>* records) {
  if (space == kRateSpace) {
    MF_ASSIGN_OR_RETURN(const double lr, DecodeRate(data, bytes));
    const uint64_t next = tables.history.count() + 1;
    if (id != next) return Status::Failed("rate of step " + std::to_string(next) + " missing");
    tables.history.Append(lr);
    return Status::Ok();
  }
  if (space == kRecordSpace) {
    MF_ASSIGN_OR_RETURN(const StepRecord record, DecodeRecord(id, data, bytes));
    records->push_back(record);
    return Status::Ok();
  }
  if (space >= kFirstWaitingSpace && space - kFirstWaitingSpace < tables.tensors.size()) {
    MF_ASSIGN_OR_RETURN(
        const uint32_t at,
        tables.tensors[space - kFirstWaitingSpace]->RestoreWaiting(id, data, bytes));
    tables.last_update = std::max(tables.last_update, at);
    return Status::Ok();
  }
  if (space >= tables.tensors.size()) return Status::Failed("entries of an unknown kind");
  MF_RETURN_IF_ERROR(tables.tensors[space]->Restore(id, data, bytes));
  // A row begins with it (pserver/table/row_format.h).
  tables.last_update = std::max(tables.last_update, LoadUnaligned<uint32_t>(data, 0));
  return Status::Ok();
}

constexpr size_t kChunkBytes = 1 << 20;  // below a millisecond of the tables' time
constexpr size_t kChunksAhead = 8;

/// Entries of a snapshot on their way from the thread that reads them.
class Chunks {
 public:
  /// Waits for room. False: nobody wants them any more.
  bool Put(SnapshotChunk chunk) {
    MutexLock lock(mutex_);
    while (!cancelled_ && chunks_.size() >= kChunksAhead) changed_.Wait(mutex_);
    if (cancelled_) return false;
    chunks_.push_back(std::move(chunk));
    changed_.NotifyAll();
    return true;
  }
  void End() {
    MutexLock lock(mutex_);
    ended_ = true;
    changed_.NotifyAll();
  }
  void Cancel() {
    MutexLock lock(mutex_);
    cancelled_ = true;
    changed_.NotifyAll();
  }
  /// The next one; nothing at the end. Calls `yield` while it waits.
  template <class Yield>
  std::optional<SnapshotChunk> Take(const Yield& yield) {
    MutexLock lock(mutex_);
    while (chunks_.empty() && !ended_) {
      if (changed_.WaitFor(mutex_, ThreadPool::kYieldInterval)) continue;
      lock.Unlock();
      yield();
      lock.Lock();
    }
    if (chunks_.empty()) return std::nullopt;
    SnapshotChunk chunk = std::move(chunks_.front());
    chunks_.pop_front();
    changed_.NotifyAll();
    return chunk;
  }

 private:
  Mutex mutex_;
  ConditionVariable changed_;
  std::deque<SnapshotChunk> chunks_ MF_GUARDED_BY(mutex_);
  bool ended_ MF_GUARDED_BY(mutex_) = false;
  bool cancelled_ MF_GUARDED_BY(mutex_) = false;
};

/// Reads a snapshot on a thread of its own, until destroyed.
class ReadingThread {
 public:
  ReadingThread(SnapshotStore& store, uint64_t step, Chunks& chunks)
      : chunks_(chunks), thread_([this, &store, step] { Run(store, step); }) {}
  ~ReadingThread() {
    chunks_.Cancel();
    if (thread_.joinable()) thread_.join();
  }
  /// After the last chunk.
  Result<SnapshotInfo> Outcome() {
    thread_.join();
    if (thrown_ != nullptr) std::rethrow_exception(thrown_);
    return std::move(*outcome_);
  }
  /// Once the first chunk is there.
  uint64_t entries() const { return entries_; }

 private:
  void Run(SnapshotStore& store, uint64_t step) {
    try {
      outcome_ = Read(store, step);
    } catch (...) {
      thrown_ = std::current_exception();
    }
    chunks_.End();
  }
  Result<SnapshotInfo> Read(SnapshotStore& store, uint64_t step) {
    MF_ASSIGN_OR_RETURN(const SnapshotSummary summary, store.Summary(step));
    for (const SpaceCount& space : summary.spaces) entries_ += space.entries;
    SnapshotChunk chunk;
    const auto visit = [&](uint32_t space, uint64_t id, const std::byte* data, size_t bytes) {
      chunk.entries.push_back({space, id, chunk.values.size(), bytes});
      chunk.values.insert(chunk.values.end(), data, data + bytes);
      if (chunk.values.size() < kChunkBytes) return Status::Ok();
      return chunks_.Put(std::exchange(chunk, {})) ? Status::Ok() : Status::Failed("cancelled");
    };
    MF_ASSIGN_OR_RETURN(SnapshotInfo info, store.Read(step, visit));
    chunks_.Put(std::move(chunk));
    return info;
  }

  Chunks& chunks_;
  std::optional<Result<SnapshotInfo>> outcome_;
  std::exception_ptr thrown_;
  uint64_t entries_ = 0;  // of all; written before the first chunk is put
  std::thread thread_;
};

}  // namespace

Status LoadEntry(uint32_t space, uint64_t id, const std::byte* data, size_t bytes,
                 ShardTables& tables, std::vector<StepRecord>* records) {
  // Checksums are right by then: what does not fit is no snapshot of this run.
  const Status loaded = Load(space, id, data, bytes, tables, records);
  return loaded.ok() ? loaded : Status(Code::kDamaged, loaded.message());
}

Status CheckLoaded(const SnapshotInfo& info, uint64_t step, const std::string& run_id,
                   const ShardTables& tables) {
  const uint64_t applied = tables.history.count();
  // The rates come after the rows, so that this is known only now. To catch up from a step that was
  // never applied would read beyond the rates.
  if (tables.last_update > applied) {
    return {Code::kDamaged, "a row was updated in applied step " +
                                std::to_string(tables.last_update) + " of " +
                                std::to_string(applied)};
  }
  if (info.step == step && info.applied == applied && info.run_id == run_id) return Status::Ok();
  return {Code::kDamaged, "it is of step " + std::to_string(info.step) + " of run " + info.run_id +
                              " with " + std::to_string(applied) + " of " +
                              std::to_string(info.applied) + " applied steps"};
}

Status LoadSnapshot(SnapshotStore& store, uint64_t step, const std::string& run_id,
                    ShardTables& tables, std::vector<StepRecord>* records, ThreadPool& pool,
                    const std::function<void(double)>& progress) {
  Chunks chunks;
  ReadingThread reading(store, step, chunks);
  const auto yield = [&pool] { pool.Yield(); };
  uint64_t loaded = 0;
  while (const std::optional<SnapshotChunk> chunk = chunks.Take(yield)) {
    for (const SnapshotChunk::Entry& entry : chunk->entries) {
      const std::byte* data = chunk->values.data() + entry.offset;  // the end, if it has no bytes
      MF_RETURN_IF_ERROR(LoadEntry(entry.space, entry.id, data, entry.bytes, tables, records));
    }
    loaded += chunk->entries.size();
    progress(std::min(1.0, static_cast<double>(loaded) /
                               static_cast<double>(std::max<uint64_t>(1, reading.entries()))));
    yield();
  }
  MF_ASSIGN_OR_RETURN(const SnapshotInfo info, reading.Outcome());
  return CheckLoaded(info, step, run_id, tables);
}

}  // namespace mf
