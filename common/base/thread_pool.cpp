#include "common/base/thread_pool.h"

#include <algorithm>
#include <string>
#include <system_error>
#include <utility>

#include "common/base/check.h"

namespace mf {

ThreadPool::ThreadPool(int threads) {
  MF_CHECK(threads >= 1);
  workers_.reserve(static_cast<size_t>(threads - 1));
  try {
    for (int thread = 1; thread < threads; ++thread) {
      workers_.emplace_back([this, thread] { Work(thread); });
    }
  } catch (const std::system_error& error) {
    Stop();  // those that run must not outlive the pool
    throw std::system_error(error.code(), "cannot start " + std::to_string(threads) + " threads");
  }
}

ThreadPool::~ThreadPool() { Stop(); }

void ThreadPool::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  wake_.NotifyAll();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(size_t count, const Loop& loop) {
  MutexLock turn(turn_);
  if (workers_.empty() || count <= 1) {
    for (size_t i = 0; i < count; ++i) {
      loop.call(loop.body, i, 0);
      Yield();
    }
    return;
  }
  {
    MutexLock lock(mutex_);
    while (active_ != 0) done_.Wait(mutex_);  // a late riser of the loop before
    loop_ = loop;
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    ++generation_;
  }
  // No more threads than there is work: a wake-up costs more than a short body.
  for (size_t i = 0; i < std::min(count - 1, workers_.size()); ++i) wake_.NotifyOne();
  RunShare(0);
  MutexLock lock(mutex_);
  AwaitOthers();
  if (thrown_ != nullptr) std::rethrow_exception(std::exchange(thrown_, nullptr));
}

void ThreadPool::RunShare(int thread) {
  try {
    for (size_t i = next_.fetch_add(1); i < count_; i = next_.fetch_add(1)) {
      loop_.call(loop_.body, i, thread);
      if (thread == 0) Yield();
    }
  } catch (...) {
    next_.store(count_);  // nobody begins anything more
    MutexLock lock(mutex_);
    if (thrown_ == nullptr) thrown_ = std::current_exception();
  }
}

void ThreadPool::AwaitOthers() {
  while (active_ != 0) {
    if (!yield_) {
      done_.Wait(mutex_);
    } else if (!done_.WaitFor(mutex_, kYieldInterval)) {
      mutex_.Unlock();
      Yield();
      mutex_.Lock();
    }
  }
}

void ThreadPool::YieldNow() {
  yield_();
  yielded_ = Clock::now();  // afterwards: what is short may still take its time
}

void ThreadPool::RunAside(const std::function<void()>& job) {
  if (!yield_) return job();
  Mutex mutex;
  ConditionVariable changed;
  bool ended = false;
  std::exception_ptr thrown;
  std::thread aside;
  try {
    aside = std::thread([&] {
      try {
        job();
      } catch (...) {
        thrown = std::current_exception();
      }
      MutexLock lock(mutex);
      ended = true;
      changed.NotifyOne();
    });
  } catch (const std::exception&) {
    return job();  // no memory or no room for a thread: then nothing is yielded to meanwhile
  }
  {
    MutexLock lock(mutex);
    while (!ended) {
      if (changed.WaitFor(mutex, kYieldInterval)) continue;
      lock.Unlock();
      Yield();
      lock.Lock();
    }
  }
  aside.join();
  if (thrown != nullptr) std::rethrow_exception(thrown);
}

void ThreadPool::Work(int thread) {
  uint64_t seen = 0;
  MutexLock lock(mutex_);
  while (true) {
    while (!stopping_ && generation_ == seen) wake_.Wait(mutex_);
    if (stopping_) return;
    seen = generation_;
    ++active_;
    lock.Unlock();
    RunShare(thread);
    lock.Lock();
    if (--active_ == 0) done_.NotifyOne();
  }
}

}  // namespace mf
