#include "common/base/thread_pool.h"

#include <algorithm>
#include <utility>

#include "common/base/check.h"

namespace mf {

ThreadPool::ThreadPool(int threads) {
  MF_CHECK(threads >= 1);
  for (int thread = 1; thread < threads; ++thread) {
    workers_.emplace_back([this, thread] { Work(thread); });
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(size_t count, const Loop& loop) {
  std::lock_guard turn(turn_);
  if (workers_.empty() || count <= 1) {
    for (size_t i = 0; i < count; ++i) loop.call(loop.body, i, 0);
    return;
  }
  {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return active_ == 0; });  // a late riser of the loop before
    loop_ = loop;
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    ++generation_;
  }
  // No more threads than there is work: a wake-up costs more than a short body.
  for (size_t i = 0; i < std::min(count - 1, workers_.size()); ++i) wake_.notify_one();
  RunShare(0);
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return active_ == 0; });
  if (thrown_ != nullptr) std::rethrow_exception(std::exchange(thrown_, nullptr));
}

void ThreadPool::RunShare(int thread) {
  try {
    for (size_t i = next_.fetch_add(1); i < count_; i = next_.fetch_add(1)) {
      loop_.call(loop_.body, i, thread);
    }
  } catch (...) {
    next_.store(count_);  // nobody begins anything more
    std::lock_guard lock(mutex_);
    if (thrown_ == nullptr) thrown_ = std::current_exception();
  }
}

void ThreadPool::Work(int thread) {
  uint64_t seen = 0;
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [&] { return stopping_ || generation_ != seen; });
    if (stopping_) return;
    seen = generation_;
    ++active_;
    lock.unlock();
    RunShare(thread);
    lock.lock();
    if (--active_ == 0) done_.notify_one();
  }
}

}  // namespace mf
