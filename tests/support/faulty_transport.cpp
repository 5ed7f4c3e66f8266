#include "tests/support/faulty_transport.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <tuple>
#include <utility>

#include "common/base/mutex.h"
#include "common/base/random.h"

namespace mf {
namespace {

class FaultyTransport final : public ClientTransport {
 public:
  FaultyTransport(std::unique_ptr<ClientTransport> inner, const FaultOptions& options,
                  std::shared_ptr<FaultCounts> counts)
      : inner_(std::move(inner)), options_(options), counts_(std::move(counts)) {}

  bool Send(size_t server, const Message& message) override {
    MutexLock lock(mutex_);
    const uint64_t number = sent_++;
    if (options_.cut > 0 && Chance(options_.cut)) {
      counts_->cuts.fetch_add(1);
      cut_until_ = Clock::now() + std::chrono::milliseconds(1 + Below(options_.cut_ms_max));
    }
    if (Chance(options_.duplicate)) {
      counts_->duplicated_requests.fetch_add(1);
      Hold({server, number, message}, options_.copy_hold_us_max);
    }
    if (!Chance(options_.hold)) return SendNow({server, number, message});
    Hold({server, number, message}, options_.hold_us_max);
    return true;
  }

  bool Receive(size_t* server, Message* message) override {
    MutexLock lock(mutex_);
    SendDue();
    if (!replies_.empty() && replies_.begin()->first <= Clock::now()) {
      std::tie(*server, *message) = replies_.extract(replies_.begin()).mapped();
      return true;
    }
    while (inner_->Receive(server, message)) {
      if (Lost()) {
        counts_->lost_replies.fetch_add(1);
        continue;
      }
      if (Chance(options_.duplicate)) {
        counts_->duplicated_replies.fetch_add(1);
        replies_.emplace(Clock::now(), std::pair(*server, *message));
      }
      if (options_.late == 0 || !Chance(options_.late)) return true;
      counts_->late_replies.fetch_add(1);
      replies_.emplace(Clock::now() + std::chrono::microseconds(Below(options_.late_us_max)),
                       std::pair(*server, std::move(*message)));
    }
    return false;
  }

  void Wait(int timeout_ms) override {
    {
      MutexLock lock(mutex_);
      timeout_ms = UntilDue(timeout_ms);
    }
    inner_->Wait(timeout_ms);
  }

  void Wake() override { inner_->Wake(); }
  uint64_t Connections(size_t server) override { return inner_->Connections(server); }

 private:
  using Clock = std::chrono::steady_clock;
  struct Held {
    size_t server;
    uint64_t number;  // in the order of Send
    Message message;
  };

  uint64_t Draw() MF_REQUIRES(mutex_) { return RandomKey(options_.seed, drawn_++); }
  int Below(int max) MF_REQUIRES(mutex_) {
    return static_cast<int>(RandomBelow(Draw(), static_cast<uint64_t>(max) + 1));
  }
  bool Lost() MF_REQUIRES(mutex_) {
    return Clock::now() < cut_until_ || (options_.drop > 0 && Chance(options_.drop));
  }
  bool Chance(double share) MF_REQUIRES(mutex_) { return RandomUnit(Draw()) < share; }

  void Hold(Held held, int us_max) MF_REQUIRES(mutex_) {
    held_.emplace(Clock::now() + std::chrono::microseconds(Below(us_max)), std::move(held));
    inner_->Wake();  // a wait in progress may have to end sooner
  }

  /// What is left of a wait: no longer than until something held is due.
  int UntilDue(int timeout_ms) const MF_REQUIRES(mutex_) {
    auto due = Clock::time_point::max();
    if (!held_.empty()) due = held_.begin()->first;
    if (!replies_.empty()) due = std::min(due, replies_.begin()->first);
    if (due == Clock::time_point::max()) return timeout_ms;
    // Rounded down: what is due within a millisecond is polled for, so that faults cost little
    // time.
    const auto wait = std::chrono::duration_cast<std::chrono::milliseconds>(due - Clock::now());
    const int until_due = std::max(0, static_cast<int>(wait.count()));
    return timeout_ms < 0 ? until_due : std::min(timeout_ms, until_due);
  }

  bool SendNow(const Held& held) MF_REQUIRES(mutex_) {
    if (held.number < latest_out_) counts_->overtaken.fetch_add(1);
    latest_out_ = std::max(latest_out_, held.number);
    if (Lost()) {
      counts_->lost_requests.fetch_add(1);
      return true;
    }
    return inner_->Send(held.server, held.message);
  }

  void SendDue() MF_REQUIRES(mutex_) {
    while (!held_.empty() && held_.begin()->first <= Clock::now()) {
      SendNow(held_.extract(held_.begin()).mapped());
    }
  }

  const std::unique_ptr<ClientTransport> inner_;
  const FaultOptions options_;
  const std::shared_ptr<FaultCounts> counts_;
  Mutex mutex_;  // Wait() runs beside Send() and Receive()
  uint64_t drawn_ MF_GUARDED_BY(mutex_) = 0;
  uint64_t sent_ MF_GUARDED_BY(mutex_) = 0;
  uint64_t latest_out_ MF_GUARDED_BY(mutex_) = 0;
  std::multimap<Clock::time_point, Held> held_ MF_GUARDED_BY(mutex_);  // by when they go out
  // Replies that were held back or come a second time, by when they are received.
  std::multimap<Clock::time_point, std::pair<size_t, Message>> replies_ MF_GUARDED_BY(mutex_);
  Clock::time_point cut_until_ MF_GUARDED_BY(mutex_){};
};

}  // namespace

std::unique_ptr<ClientTransport> MakeFaulty(std::unique_ptr<ClientTransport> inner,
                                            const FaultOptions& options,
                                            std::shared_ptr<FaultCounts> counts) {
  return std::make_unique<FaultyTransport>(std::move(inner), options, std::move(counts));
}

}  // namespace mf
