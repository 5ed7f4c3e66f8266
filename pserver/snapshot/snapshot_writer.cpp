#include "pserver/snapshot/snapshot_writer.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "common/base/check.h"

namespace mf {
namespace {

constexpr size_t kChunksWaitingMax = 8;  // 32 MiB of rows

class ThreadedSnapshotWriter final : public SnapshotWriter {
 public:
  explicit ThreadedSnapshotWriter(SnapshotStore& store)
      : store_(store), thread_([this] { Run(); }) {}

  ~ThreadedSnapshotWriter() override {
    Abandon();
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  void Begin() override {
    std::lock_guard lock(mutex_);
    MF_CHECK(!open_ && !outcome_.has_value());
    open_ = true;
    begun_ = false;
  }

  bool Put(SnapshotChunk& chunk) override {
    {
      std::lock_guard lock(mutex_);
      MF_CHECK(open_);
      if (waiting_.size() >= kChunksWaitingMax) return false;
      waiting_.push_back(std::exchange(chunk, {}));
    }
    changed_.notify_all();
    return true;
  }

  void Publish(const SnapshotInfo& info) override {
    {
      std::lock_guard lock(mutex_);
      MF_CHECK(open_);
      info_ = info;
    }
    changed_.notify_all();
  }

  std::optional<Outcome> Poll() override {
    std::lock_guard lock(mutex_);
    if (!outcome_.has_value()) return std::nullopt;
    open_ = false;
    return std::exchange(outcome_, std::nullopt);
  }

  void Abandon() override {
    std::unique_lock lock(mutex_);
    waiting_.clear();
    info_.reset();
    changed_.wait(lock, [this] { return !busy_; });
    if (open_ && begun_ && !outcome_.has_value()) store_.Abandon();
    waiting_.clear();
    outcome_.reset();
    open_ = false;
  }

 private:
  void Run() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stopping_ || !waiting_.empty() || info_.has_value(); });
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
      lock.unlock();
      Work(first, chunk, info);
      lock.lock();
      busy_ = false;
      if (info.has_value()) outcome_ = Outcome{failure_, store_.last_publish()};
      changed_.notify_all();
    }
  }

  /// After a failure the rest of the increment is taken and thrown away.
  void Work(bool first, const std::optional<SnapshotChunk>& chunk,
            const std::optional<SnapshotInfo>& info) {
    if (first) failure_ = store_.Begin();
    if (failure_.ok() && chunk.has_value()) failure_ = Add(*chunk);
    if (failure_.ok() && info.has_value()) failure_ = store_.Publish(*info);
    if (!failure_.ok() && info.has_value()) store_.Abandon();
  }

  Status Add(const SnapshotChunk& chunk) {
    for (const SnapshotChunk::Entry& entry : chunk.entries) {
      MF_RETURN_IF_ERROR(
          store_.Put(entry.space, entry.id, &chunk.values[entry.offset], entry.bytes));
    }
    return Status::Ok();
  }

  SnapshotStore& store_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<SnapshotChunk> waiting_;  // guarded by mutex_
  std::optional<SnapshotInfo> info_;   // guarded by mutex_
  std::optional<Outcome> outcome_;     // guarded by mutex_
  bool open_ = false;                  // guarded by mutex_
  bool begun_ = false;                 // guarded by mutex_: the store knows of the increment
  bool busy_ = false;                  // guarded by mutex_: the thread uses the store
  bool stopping_ = false;              // guarded by mutex_
  Status failure_;                     // used by thread_ while busy_
  std::thread thread_;
};

}  // namespace

std::unique_ptr<SnapshotWriter> MakeThreadedSnapshotWriter(SnapshotStore& store) {
  return std::make_unique<ThreadedSnapshotWriter>(store);
}

}  // namespace mf
