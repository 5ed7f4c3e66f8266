// Locks that the compiler checks: with Clang's -Wthread-safety (the preset `clang`) it is an error
// to touch what a mutex guards, or to call what wants it held, without holding it. The standard
// library's mutex carries no such annotations; these are it, at the same cost.
//
// A condition is waited for in a loop that the reader and the analysis see, `while (!done_)
// changed_.Wait(mutex_);`: a predicate would be a function of its own, of which the analysis does
// not know that the mutex is held.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define MF_THREAD_SAFETY(attribute) __attribute__((attribute))
#else
#define MF_THREAD_SAFETY(attribute)
#endif

/// A member that is read and written only by who holds the mutex.
#define MF_GUARDED_BY(mutex) MF_THREAD_SAFETY(guarded_by(mutex))
/// A mutex that is taken before the others, where more than one is held.
#define MF_ACQUIRED_BEFORE(...) MF_THREAD_SAFETY(acquired_before(__VA_ARGS__))
/// A function that is called by who holds the mutexes, and returns with them held.
#define MF_REQUIRES(...) MF_THREAD_SAFETY(requires_capability(__VA_ARGS__))
/// A function that takes the mutexes itself: its caller does not hold them.
#define MF_EXCLUDES(...) MF_THREAD_SAFETY(locks_excluded(__VA_ARGS__))
/// A function that the analysis leaves out. Only with a reason beside it.
#define MF_NO_THREAD_SAFETY_ANALYSIS MF_THREAD_SAFETY(no_thread_safety_analysis)

namespace mf {

class MF_THREAD_SAFETY(capability("mutex")) Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void Lock() MF_THREAD_SAFETY(acquire_capability()) { mutex_.lock(); }
  void Unlock() MF_THREAD_SAFETY(release_capability()) { mutex_.unlock(); }
  /// Whether it was free and is now held.
  bool TryLock() MF_THREAD_SAFETY(try_acquire_capability(true)) { return mutex_.try_lock(); }
  /// Tells the analysis that the caller holds this mutex, where it cannot see it: held by contract
  /// or by another name.
  void AssertHeld() const MF_THREAD_SAFETY(assert_capability(this)) {}

 private:
  friend class ConditionVariable;
  std::mutex mutex_;
};

/// Holds a mutex to the end of its scope, but from Unlock() to Lock().
class MF_THREAD_SAFETY(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) MF_THREAD_SAFETY(acquire_capability(mutex)) : mutex_(mutex) {
    mutex_.Lock();
  }
  ~MutexLock() MF_THREAD_SAFETY(release_capability()) {
    if (held_) mutex_.Unlock();
  }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

  void Unlock() MF_THREAD_SAFETY(release_capability()) {
    mutex_.Unlock();
    held_ = false;
  }
  void Lock() MF_THREAD_SAFETY(acquire_capability()) {
    mutex_.Lock();
    held_ = true;
  }

 private:
  Mutex& mutex_;
  bool held_ = true;
};

/// Waits give up the mutex, which the caller holds, and return with it held. They may return for no
/// reason: the condition is looked at again. All waits at one time are with one mutex.
class ConditionVariable {
 public:
  void Wait(Mutex& mutex) MF_REQUIRES(mutex) {
    Native lock(mutex);
    condition_.wait(lock.held);
  }
  /// false: the time has come.
  template <class Clock, class Duration>
  bool WaitUntil(Mutex& mutex, std::chrono::time_point<Clock, Duration> end) MF_REQUIRES(mutex) {
    Native lock(mutex);
    return condition_.wait_until(lock.held, end) == std::cv_status::no_timeout;
  }
  template <class Rep, class Period>
  bool WaitFor(Mutex& mutex, std::chrono::duration<Rep, Period> time) MF_REQUIRES(mutex) {
    return WaitUntil(mutex, std::chrono::steady_clock::now() + time);
  }
  void NotifyOne() { condition_.notify_one(); }
  void NotifyAll() { condition_.notify_all(); }

 private:
  /// A held mutex as the standard library wants it; std::condition_variable_any would take another
  /// mutex of its own.
  struct Native {
    explicit Native(Mutex& mutex) : held(mutex.mutex_, std::adopt_lock) {}
    ~Native() { held.release(); }
    std::unique_lock<std::mutex> held;
  };
  std::condition_variable condition_;
};

}  // namespace mf
