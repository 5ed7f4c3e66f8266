#include "pserver/serving/snapshot_follower.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <utility>

#include "common/base/logging.h"

namespace mf {
namespace {

using Clock = std::chrono::steady_clock;

/// Servers that train may delete a step before it is open here.
constexpr int kTries = 20;
constexpr double kLookSeconds = 0.25;   // at the clock, and after a failure at the folder
constexpr int kQuietFailures = 8;       // deletions that overtake a look are no trouble
constexpr int64_t kPublishSeconds = 2;  // from a snapshot's time to its place in the folder

int64_t UnixSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

Result<std::unique_ptr<SnapshotFollower>> SnapshotFollower::Open(const Options& options) {
  std::unique_ptr<SnapshotFollower> follower(new SnapshotFollower(options));
  Status status;
  for (int i = 0; i < kTries; ++i) {
    std::vector<uint64_t> steps = {options.state.step};
    if (options.state.step == 0) {
      MF_ASSIGN_OR_RETURN(steps, follower->Choices(follower->Period()));
    }
    status = follower->LoadFirst(steps);
    if (status.code() != Code::kStale) break;
    (void)follower->Sleep(kLookSeconds);
  }
  if (status.code() == Code::kStale) return Status::Failed(status.message());
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

std::string SnapshotFollower::trouble() const {
  MutexLock lock(mutex_);
  return trouble_;
}

void SnapshotFollower::SetTrouble(std::string trouble) {
  MutexLock lock(mutex_);
  trouble_ = std::move(trouble);
}

bool SnapshotFollower::ending() const {
  MutexLock lock(mutex_);
  return ending_;
}

bool SnapshotFollower::Sleep(double seconds) {
  const auto until = Clock::now() + std::chrono::duration<double>(seconds);
  MutexLock lock(mutex_);
  while (!ending_ && Clock::now() < until) {
    (void)changed_.WaitFor(mutex_,
                           std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()));
  }
  return !ending_;
}

int64_t SnapshotFollower::Period() const {
  return options_.follow_seconds == 0 ? 0
                                      : (UnixSeconds() - kPublishSeconds) / options_.follow_seconds;
}

Result<std::vector<uint64_t>> SnapshotFollower::Choices(int64_t period) const {
  const std::string from = "--from " + options_.state.from;
  MF_ASSIGN_OR_RETURN(const std::vector<MergedSnapshot::Published> all,
                      MergedSnapshot::List({.from = options_.state.from, .flag = "--from"}));
  const std::vector<State> served = states();
  const uint64_t newest = served.empty() ? 0 : served.back()->step();
  const int64_t begin = options_.follow_seconds == 0 ? INT64_MAX : period * options_.follow_seconds;
  std::vector<uint64_t> steps;
  for (auto one = all.rbegin(); one != all.rend(); ++one) {
    if (!served.empty() && !one->run_id.empty() && one->run_id != served.back()->run().RunId()) {
      return Status::Failed(from + " holds another run now; start a server for that one");
    }
    if (one->unix_seconds <= begin && one->step > newest) steps.push_back(one->step);
  }
  if (steps.empty() && served.empty()) {
    spdlog::info(
        "{}: no snapshot is older than this period of --follow {}. If the servers that "
        "train delete theirs sooner, follow more often, or keep more: others may have "
        "steps that this one cannot have",
        from, options_.follow_seconds);
    steps.push_back(all.front().step);
  }
  return steps;
}

Status SnapshotFollower::LoadFirst(const std::vector<uint64_t>& steps) {
  Status first;
  bool opened = false;
  for (const uint64_t step : steps) {
    ServedState::Options options = options_.state;
    options.step = step;
    auto snapshot = ServedState::Open(options);
    Status status = snapshot.status();
    if (status.ok()) {
      opened = true;
      DropOlder();
      Result<State> state = Load(*snapshot.value(), options);
      if (state.ok()) {
        if (!first.ok()) spdlog::warn("a newer step is passed over: {}", first.message());
        Publish(std::move(state).value());
        return Status::Ok();
      }
      status = state.status();
      if (status.code() == Code::kUnavailable || status.code() == Code::kInvalid) return status;
    } else if (options_.state.step != 0) {
      return status;  // it was asked for
    }
    if (first.ok()) first = status;
  }
  // Not even opened: servers that train have deleted them since, perhaps.
  return opened || first.ok() ? first : Status(Code::kStale, first.message());
}

Result<SnapshotFollower::State> SnapshotFollower::Load(MergedSnapshot& snapshot,
                                                       const ServedState::Options& options) {
  int tenth = 0;
  const auto begin = Clock::now();
  MF_ASSIGN_OR_RETURN(
      State state, ServedState::Load(snapshot, options, [&](double part) {
        const int now = static_cast<int>(part * 10);
        if (now > tenth && now < 10 && Clock::now() - begin > std::chrono::seconds(2)) {
          spdlog::info("loading step {}: {}%", snapshot.step(), now * 10);
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

void SnapshotFollower::Run() {
  int64_t looked = Period();
  int failures = 0;
  while (Sleep(kLookSeconds)) {
    const int64_t period = Period();
    if (period <= looked) continue;
    Status status;
    try {
      status = Look(period);
    } catch (const std::bad_alloc&) {
      status = Status::Failed("not enough memory to look for a snapshot");
    }
    if (ending()) return;
    // What was deleted under its hands is looked for again at once; a whole load is not repeated.
    const bool again = status.code() == Code::kStale;
    if (!again) looked = period;
    failures = status.ok() ? 0 : again ? failures + 1 : kQuietFailures;
    const std::string trouble = failures < kQuietFailures ? "" : status.message();
    if (!trouble.empty() && trouble != this->trouble()) {
      spdlog::warn("no newer step is served: {}; looks again", trouble);
    }
    SetTrouble(trouble);
  }
}

Status SnapshotFollower::Look(int64_t period) {
  MF_ASSIGN_OR_RETURN(const std::vector<uint64_t> steps, Choices(period));
  // None: there is no newer one, or a run went back and comes to the same states again.
  MF_RETURN_IF_ERROR(LoadFirst(steps));
  if (!steps.empty() && Period() > period) {
    spdlog::warn(
        "step {} took longer to load than --follow {}: where several servers serve, raise "
        "it for all of them",
        states().back()->step(), options_.follow_seconds);
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
