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
#include <string>
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
  /// With the first state loaded, which takes as long as it takes; as of ServedState::Load. A
  /// snapshot that is damaged is told of, and the one before it served, unless it was asked for.
  static Result<std::unique_ptr<SnapshotFollower>> Open(const Options& options);
  ~SnapshotFollower();

  using State = std::shared_ptr<ServedState>;
  /// One or two, rising; never none.
  std::vector<State> states() const;
  /// Why no newer step is served; empty: nothing is amiss.
  std::string trouble() const;

 private:
  explicit SnapshotFollower(const Options& options) : options_(options) {}
  int64_t Period() const;
  /// Steps that may be served in the period and are newer than what is served, the newest first.
  Result<std::vector<uint64_t>> Choices(int64_t period) const;
  /// Serves the first of the steps that can be loaded. kStale if not one could be opened.
  Status LoadFirst(const std::vector<uint64_t>& steps);
  Result<State> Load(MergedSnapshot& snapshot, const ServedState::Options& options);
  void Publish(State state);
  void Run();
  /// What follows from a look at the folder.
  Status Look(int64_t period);
  void DropOlder();
  void SetTrouble(std::string trouble);
  /// Until the object is destroyed, if that is sooner. False then.
  bool Sleep(double seconds);
  bool ending() const;

  const Options options_;
  mutable Mutex mutex_;
  ConditionVariable changed_;
  bool ending_ MF_GUARDED_BY(mutex_) = false;
  std::vector<State> states_ MF_GUARDED_BY(mutex_);
  std::string trouble_ MF_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace mf
