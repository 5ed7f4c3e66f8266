#include "pserver/snapshot/disk_thread.h"

#include <new>
#include <utility>

#include "common/base/logging.h"

namespace mf {

DiskThread::DiskThread() : thread_([this] { Run(); }) {}

DiskThread::~DiskThread() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  thread_.join();
}

void DiskThread::Do(std::function<void()> job) {
  {
    MutexLock lock(mutex_);
    if (jobs_.empty()) begun_ = Clock::now();
    jobs_.push_back(std::move(job));
  }
  changed_.NotifyAll();
}

void DiskThread::Drain() {
  MutexLock lock(mutex_);
  while (!jobs_.empty()) changed_.Wait(mutex_);
}

bool DiskThread::idle() const {
  MutexLock lock(mutex_);
  return jobs_.empty();
}

double DiskThread::busy_seconds() const {
  MutexLock lock(mutex_);
  if (jobs_.empty()) return 0;
  return std::chrono::duration<double>(Clock::now() - begun_).count();
}

void DiskThread::Run() {
  MutexLock lock(mutex_);
  while (true) {
    while (!stopping_ && jobs_.empty()) changed_.Wait(mutex_);
    if (jobs_.empty()) return;
    const std::function<void()>& job = jobs_.front();  // stays where it is: others are put behind
    lock.Unlock();
    try {
      job();
    } catch (const std::bad_alloc&) {
      spdlog::error("out of memory for work on the disk of --data: it is asked for again");
    }
    lock.Lock();
    jobs_.pop_front();
    begun_ = Clock::now();
    if (jobs_.empty()) changed_.NotifyAll();
  }
}

}  // namespace mf
