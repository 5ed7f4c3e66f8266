// A fixed set of threads for data-parallel loops. Results never depend on which thread ran an
// index: every index writes its own output.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/mutex.h"

namespace mf {

class ThreadPool {
 public:
  /// `threads` >= 1 in all: the caller of ParallelFor is one of them. Throws std::system_error
  /// where the system has no more; CheckThreads() (machine_limits.h) tells before.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// Runs body(i, thread) for every i in [0, count) and returns when all have run; `thread` is in
  /// [0, threads()) and picks scratch memory only. One ParallelFor at a time: callers take turns.
  /// Must not be called from inside a body. What a body throws is thrown here, once all have ended.
  template <class Body>
  void ParallelFor(size_t count, const Body& body) {
    Run(count, {&body, [](const void* b, size_t i, int thread) {
                  (*static_cast<const Body*>(b))(i, thread);
                }});
  }

  /// Runs body(begin, end) for ranges that cover [0, count): one a thread, but none of fewer than
  /// `least` where there are more than that; so a body that chooses how to work sees as much as
  /// there is.
  template <class Body>
  void ParallelRanges(size_t count, size_t least, const Body& body) {
    const size_t ranges = std::clamp<size_t>(count / least, 1, static_cast<size_t>(threads()));
    ParallelFor(ranges, [&](size_t i, int) { body(i * count / ranges, (i + 1) * count / ranges); });
  }

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Work that takes long makes room for something short: `yield` is called by the thread that
  /// calls ParallelFor(), at most every kYieldInterval, between two of its bodies and while it
  /// waits for others, by Yield() and while RunAside() waits. It does not use the pool. To be set
  /// before the pool is used, by one thread from then on.
  void SetYield(std::function<void()> yield) { yield_ = std::move(yield); }
  static constexpr std::chrono::milliseconds kYieldInterval{5};
  /// Calls what SetYield() was given, if it is time.
  void Yield() {
    if (yield_ && Clock::now() - yielded_ >= kYieldInterval) YieldNow();
  }
  /// Runs `job` and returns when it has ended; on a thread of its own if there is something to
  /// yield to and a thread can be had: for what may wait for a disk. What it throws is thrown here.
  void RunAside(const std::function<void()>& job);

 private:
  using Clock = std::chrono::steady_clock;
  /// A body by reference: a std::function of it may take memory at every loop.
  struct Loop {
    const void* body = nullptr;
    void (*call)(const void* body, size_t i, int thread) = nullptr;
  };
  void Run(size_t count, const Loop& loop) MF_EXCLUDES(turn_, mutex_);
  void Work(int thread);
  void Stop();
  void RunShare(int thread);
  void YieldNow();
  /// Until no thread is inside a body.
  void AwaitOthers() MF_REQUIRES(mutex_);

  Mutex turn_ MF_ACQUIRED_BEFORE(mutex_);  // held by the caller of ParallelFor

  Mutex mutex_;
  ConditionVariable wake_;
  ConditionVariable done_;
  uint64_t generation_ MF_GUARDED_BY(mutex_) = 0;
  int active_ MF_GUARDED_BY(mutex_) = 0;  // threads inside a body
  bool stopping_ MF_GUARDED_BY(mutex_) = false;
  std::exception_ptr thrown_ MF_GUARDED_BY(mutex_);  // by the first body that did
  // Written while no thread is inside a body, read by those that are.
  Loop loop_;
  size_t count_ = 0;
  std::atomic<size_t> next_{0};
  std::vector<std::thread> workers_;
  std::function<void()> yield_;
  Clock::time_point yielded_{};  // when that was last called
};

}  // namespace mf
