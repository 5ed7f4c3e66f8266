// Which snapshots of a run a read-only server has: the newest one, and the one before for whoever
// still reads that. A thread of its own looks for newer ones, and loads them while the others are
// read. The older one goes before the next is loaded, so there are never more than two in memory.
//
// Servers that together serve a run know nothing of each other, and have to come to the same steps:
// time is cut into periods, and the step to serve in one is the newest that was published before it
// began. So all of them choose the same one, however late each looks, and as long as none takes
// more than a period to load it, they have the last one or the one before in common.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "common/base/mutex.h"
#include "common/base/status.h"
#include "common/metrics/metrics.h"
#include "pserver/serving/served_state.h"

namespace mf {

class SnapshotFollower {
 public:
  struct Options {
    ServedState::Options state;
    int64_t follow_seconds = 0;       // a period; 0: newer steps are not looked for
    std::function<bool()> ends = {};  // whether Open() is to give up, which is kUnavailable then
    Metrics* metrics = nullptr;       // outlives the object
  };
  /// With the first state loaded, which takes as long as it takes; as of ServedState::Load.
  static Result<std::unique_ptr<SnapshotFollower>> Open(const Options& options);
  ~SnapshotFollower();

  using State = std::shared_ptr<ServedState>;
  /// One or two, rising; never none.
  std::vector<State> states() const;

 private:
  explicit SnapshotFollower(const Options& options) : options_(options) {}
  /// Of the period, as it is now or `period` began.
  int64_t Period() const;
  Result<uint64_t> StepOf(int64_t period) const;
  Result<State> Load(uint64_t step);
  void Publish(State state);
  void Run();
  /// One look, and what follows from it.
  Status Look(int64_t period);
  void DropOlder();
  /// Until the object is destroyed, if that is sooner. False then.
  bool Sleep(double seconds);
  bool ending() const;

  const Options options_;
  mutable Mutex mutex_;
  ConditionVariable changed_;
  bool ending_ MF_GUARDED_BY(mutex_) = false;
  std::vector<State> states_ MF_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace mf
