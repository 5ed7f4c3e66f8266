#include "pserver/snapshot/snapshot_writer.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <new>
#include <thread>
#include <utility>

#include "common/base/check.h"
#include "common/base/mutex.h"

namespace mf {
namespace {

constexpr size_t kChunksWaitingMax = 8;  // 32 MiB of rows
constexpr double kSlowDisk = 10e6;       // bytes a second, of one that is not late

}  // namespace

Status AddTo(SnapshotStore& store, const SnapshotChunk& chunk, const SnapshotChunk::Entry& entry) {
  if (entry.removed) return store.Remove(entry.space, entry.id);
  return store.Put(entry.space, entry.id, chunk.values.data() + entry.offset, entry.bytes);
}

namespace {

class ThreadedSnapshotWriter final : public SnapshotWriter {
 public:
  explicit ThreadedSnapshotWriter(SnapshotStore& store)
      : store_(store), thread_([this] { Run(); }) {}

  ~ThreadedSnapshotWriter() override {
    Abandon();
    {
      MutexLock lock(mutex_);
      stopping_ = true;
    }
    changed_.NotifyAll();
    thread_.join();
  }

  void Begin() override {
    MutexLock lock(mutex_);
    MF_CHECK(!open_ && !outcome_.has_value());
    open_ = true;
    begun_ = false;
  }

  bool Put(SnapshotChunk& chunk) override {
    {
      MutexLock lock(mutex_);
      MF_CHECK(open_);
      if (waiting_.size() >= kChunksWaitingMax) return false;
      waiting_.push_back(std::exchange(chunk, {}));
    }
    changed_.NotifyAll();
    return true;
  }

  void Publish(const SnapshotInfo& info) override {
    {
      MutexLock lock(mutex_);
      MF_CHECK(open_);
      info_ = info;
    }
    changed_.NotifyAll();
  }

  std::optional<Outcome> Poll() override {
    MutexLock lock(mutex_);
    if (!outcome_.has_value()) return std::nullopt;
    open_ = false;
    return std::exchange(outcome_, std::nullopt);
  }

  void Abandon() override {
    MutexLock lock(mutex_);
    waiting_.clear();
    info_.reset();
    while (busy_) changed_.Wait(mutex_);
    if (open_ && begun_ && !outcome_.has_value()) Forget();
    waiting_.clear();
    outcome_.reset();
    open_ = false;
  }

  double late_seconds() const override {
    MutexLock lock(mutex_);
    if (!busy_) return 0;
    const std::chrono::duration<double> busy = std::chrono::steady_clock::now() - busy_since_;
    return std::max(0.0, busy.count() - allowed_seconds_);
  }

 private:
  void Run() {
    MutexLock lock(mutex_);
    while (true) {
      while (!stopping_ && waiting_.empty() && !info_.has_value()) changed_.Wait(mutex_);
      if (stopping_) return;
      std::optional<SnapshotChunk> chunk;
      std::optional<SnapshotInfo> info;
      if (!waiting_.empty()) {
        chunk = std::move(waiting_.front());
        waiting_.pop_front();
      } else {
        info = std::exchange(info_, std::nullopt);
      }
      const bool first = !std::exchange(begun_, true);
      if (first) failure_ = Status::Ok();
      busy_ = true;
      busy_since_ = std::chrono::steady_clock::now();
      // Publishing makes durable what was taken before.
      if (first) bytes_ = 0;
      if (chunk.has_value()) bytes_ += chunk->values.size();
      allowed_seconds_ = info.has_value() ? static_cast<double>(bytes_) / kSlowDisk : 0;
      lock.Unlock();
      Work(first, chunk, info);
      lock.Lock();
      busy_ = false;
      if (info.has_value()) outcome_ = Outcome{std::move(failure_), store_.last_publish()};
      changed_.NotifyAll();
    }
  }

  /// After a failure the rest of the increment is taken and thrown away.
  void Work(bool first, const std::optional<SnapshotChunk>& chunk,
            const std::optional<SnapshotInfo>& info) {
    try {
      if (first) failure_ = store_.Begin();
      if (failure_.ok() && chunk.has_value()) failure_ = Add(*chunk);
      if (failure_.ok() && info.has_value()) failure_ = store_.Publish(*info);
    } catch (const std::bad_alloc&) {
      failure_ = Status::Failed("out of memory");  // short: takes none itself
    }
    if (!failure_.ok() && info.has_value()) Forget();
  }

  void Forget() {
    try {
      store_.Abandon();
    } catch (const std::bad_alloc&) {
      // The next Begin() finds what is left, and forgets it first.
    }
  }

  Status Add(const SnapshotChunk& chunk) {
    for (const SnapshotChunk::Entry& entry : chunk.entries) {
      MF_RETURN_IF_ERROR(AddTo(store_, chunk, entry));
    }
    return Status::Ok();
  }

  SnapshotStore& store_;
  mutable Mutex mutex_;
  ConditionVariable changed_;
  std::deque<SnapshotChunk> waiting_ MF_GUARDED_BY(mutex_);
  std::optional<SnapshotInfo> info_ MF_GUARDED_BY(mutex_);
  std::optional<Outcome> outcome_ MF_GUARDED_BY(mutex_);
  bool open_ MF_GUARDED_BY(mutex_) = false;
  bool begun_ MF_GUARDED_BY(mutex_) = false;  // the store knows of the increment
  bool busy_ MF_GUARDED_BY(mutex_) = false;   // the thread uses the store
  std::chrono::steady_clock::time_point busy_since_ MF_GUARDED_BY(mutex_);
  double allowed_seconds_ MF_GUARDED_BY(mutex_) = 0;  // before what it is busy with is late
  size_t bytes_ MF_GUARDED_BY(mutex_) = 0;            // of the increment
  bool stopping_ MF_GUARDED_BY(mutex_) = false;
  Status failure_;  // of thread_, which alone uses it
  std::thread thread_;
};

}  // namespace

std::unique_ptr<SnapshotWriter> MakeThreadedSnapshotWriter(SnapshotStore& store) {
  return std::make_unique<ThreadedSnapshotWriter>(store);
}

}  // namespace mf
