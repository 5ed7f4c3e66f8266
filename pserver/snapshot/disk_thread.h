// Small work on a server's disk (names, deletions, free space) off the server's thread: a disk that
// does not answer stops what is here, and nothing else.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <thread>

#include "common/base/mutex.h"

namespace mf {

class DiskThread {
 public:
  DiskThread();
  /// Waits for all jobs.
  ~DiskThread();
  DiskThread(const DiskThread&) = delete;
  DiskThread& operator=(const DiskThread&) = delete;

  /// `job` is done after those before it. One that finds no memory has been done as far as it came.
  void Do(std::function<void()> job);
  /// Returns when all that was to be done before has been.
  void Drain();
  /// Nothing waits and nothing is being done.
  bool idle() const;
  /// For how long the job that is being done has not ended; 0: there is none.
  double busy_seconds() const;

 private:
  using Clock = std::chrono::steady_clock;
  void Run();

  mutable Mutex mutex_;
  ConditionVariable changed_;
  std::deque<std::function<void()>> jobs_ MF_GUARDED_BY(mutex_);  // the first one is being done
  Clock::time_point begun_ MF_GUARDED_BY(mutex_);                 // that one
  bool stopping_ MF_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace mf
