#include "pserver/serving/snapshot_follower.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "common/base/logging.h"

namespace mf {
namespace {

using Clock = std::chrono::steady_clock;

std::chrono::milliseconds Milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
}

/// Servers that train may delete a step before it is open here.
constexpr int kTries = 20;
constexpr double kLookSeconds = 0.1;    // at the clock
constexpr int64_t kPublishSeconds = 2;  // from a snapshot's time to its place in the folder

int64_t UnixSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

Result<std::unique_ptr<SnapshotFollower>> SnapshotFollower::Open(const Options& options) {
  std::unique_ptr<SnapshotFollower> follower(new SnapshotFollower(options));
  const bool any = options.state.step == 0;
  Status status;
  for (int i = 0; i < (any ? kTries : 1); ++i) {
    uint64_t step = options.state.step;
    if (options.follow_seconds != 0) {
      MF_ASSIGN_OR_RETURN(step, follower->StepOf(follower->Period()));
    }
    Result<State> state = follower->Load(step);
    status = state.status();
    if (state.ok()) {
      follower->Publish(std::move(state).value());
      break;
    }
    if (status.code() == Code::kUnavailable) break;
  }
  if (!status.ok()) return status;
  if (options.follow_seconds != 0) {
    follower->thread_ = std::thread([pointer = follower.get()] { pointer->Run(); });
  }
  return follower;
}

SnapshotFollower::~SnapshotFollower() {
  {
    MutexLock lock(mutex_);
    ending_ = true;
    changed_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

std::vector<SnapshotFollower::State> SnapshotFollower::states() const {
  MutexLock lock(mutex_);
  return states_;
}

bool SnapshotFollower::ending() const {
  MutexLock lock(mutex_);
  return ending_;
}

bool SnapshotFollower::Sleep(double seconds) {
  const auto until = Clock::now() + Milliseconds(seconds);
  MutexLock lock(mutex_);
  while (!ending_ && Clock::now() < until) {
    (void)changed_.WaitFor(
        mutex_, std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()) +
                    std::chrono::milliseconds(1));
  }
  return !ending_;
}

Result<SnapshotFollower::State> SnapshotFollower::Load(uint64_t step) {
  ServedState::Options options = options_.state;
  options.step = step;
  int tenth = 0;
  const auto begin = Clock::now();
  MF_ASSIGN_OR_RETURN(
      State state, ServedState::Load(options, [&](double part) {
        const int now = static_cast<int>(part * 10);
        if (now > tenth && now < 10 && Clock::now() - begin > std::chrono::seconds(2)) {
          spdlog::info("loading a snapshot: {}%", now * 10);
        }
        tenth = std::max(tenth, now);
        return !ending() && !(options_.ends && options_.ends());
      }));
  return state;
}

void SnapshotFollower::Publish(State state) {
  const uint64_t step = state->step();
  if (options_.metrics != nullptr) {
    options_.metrics->Set(Metric::kStep, static_cast<double>(step));
  }
  spdlog::info("serves step {} of run {}", step, state->run().RunId().substr(0, 16));
  MutexLock lock(mutex_);
  states_.push_back(std::move(state));
}

int64_t SnapshotFollower::Period() const {
  return (UnixSeconds() - kPublishSeconds) / options_.follow_seconds;
}

Result<uint64_t> SnapshotFollower::StepOf(int64_t period) const {
  return MergedSnapshot::NewestBy({.from = options_.state.from, .flag = "--from"},
                                  period * options_.follow_seconds);
}

void SnapshotFollower::Run() {
  std::string told;
  int64_t looked = Period();
  while (Sleep(kLookSeconds)) {
    const int64_t period = Period();
    if (period <= looked) continue;
    looked = period;
    const Status status = Look(period);
    if (status.ok()) {
      told.clear();
    } else if (status.message() != told && !ending()) {
      told = status.message();
      spdlog::warn("no newer step is served: {}; looks again", told);
    }
  }
}

Status SnapshotFollower::Look(int64_t period) {
  MF_ASSIGN_OR_RETURN(const uint64_t step, StepOf(period));
  const State newest = states().back();
  // A run that went back comes to the same states again.
  if (step <= newest->step()) return Status::Ok();
  DropOlder();
  MF_ASSIGN_OR_RETURN(State state, Load(step));
  if (state->run().RunId() != newest->run().RunId()) {
    return Status::Failed("--from " + options_.state.from +
                          " holds another run now; start a server for that one");
  }
  Publish(std::move(state));
  if (Period() > period) {
    spdlog::warn(
        "step {} took longer to load than --follow {}: where several servers serve, raise "
        "it for all of them",
        step, options_.follow_seconds);
  }
  return Status::Ok();
}

/// It is freed here, and not by who answers requests.
void SnapshotFollower::DropOlder() {
  State older;
  {
    MutexLock lock(mutex_);
    if (states_.size() < 2) return;
    older = std::move(states_.front());
    states_.erase(states_.begin());
  }
  while (older.use_count() > 1) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

}  // namespace mf
