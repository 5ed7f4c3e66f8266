#include "tests/support/faulty_transport.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <map>
#include <tuple>
#include <utility>

#include "common/random.h"

namespace mf {
namespace {

class FaultyTransport final : public ClientTransport {
 public:
  FaultyTransport(std::unique_ptr<ClientTransport> inner, const FaultOptions& options,
                  std::shared_ptr<FaultCounts> counts)
      : inner_(std::move(inner)), options_(options), counts_(std::move(counts)) {}

  bool Send(size_t server, const Message& message) override {
    const uint64_t number = sent_++;
    if (Chance(options_.duplicate)) {
      counts_->duplicated_requests.fetch_add(1);
      Hold({server, number, message}, options_.copy_hold_us_max);
    }
    if (!Chance(options_.hold)) return SendNow({server, number, message});
    Hold({server, number, message}, options_.hold_us_max);
    return true;
  }

  bool Receive(int timeout_ms, size_t* server, Message* message) override {
    SendDue();
    if (!again_.empty()) {
      std::tie(*server, *message) = std::move(again_.front());
      again_.pop_front();
      return true;
    }
    if (!held_.empty()) {
      // Rounded down: what is due within a millisecond is polled for, so that faults cost little
      // time.
      const auto wait = std::chrono::duration_cast<std::chrono::milliseconds>(held_.begin()->first -
                                                                              Clock::now());
      const int until_due = std::max(0, static_cast<int>(wait.count()));
      timeout_ms = timeout_ms < 0 ? until_due : std::min(timeout_ms, until_due);
    }
    if (!inner_->Receive(timeout_ms, server, message)) return false;
    if (Chance(options_.duplicate)) {
      counts_->duplicated_replies.fetch_add(1);
      again_.emplace_back(*server, *message);
    }
    return true;
  }

  void Wake() override { inner_->Wake(); }

 private:
  using Clock = std::chrono::steady_clock;
  struct Held {
    size_t server;
    uint64_t number;  // in the order of Send
    Message message;
  };

  uint64_t Draw() { return RandomKey(options_.seed, drawn_++); }
  bool Chance(double share) { return RandomUnit(Draw()) < share; }

  void Hold(Held held, int us_max) {
    const auto us = RandomBelow(Draw(), static_cast<uint64_t>(us_max) + 1);
    held_.emplace(Clock::now() + std::chrono::microseconds(us), std::move(held));
  }

  bool SendNow(const Held& held) {
    if (held.number < latest_out_) counts_->overtaken.fetch_add(1);
    latest_out_ = std::max(latest_out_, held.number);
    return inner_->Send(held.server, held.message);
  }

  void SendDue() {
    while (!held_.empty() && held_.begin()->first <= Clock::now()) {
      SendNow(held_.extract(held_.begin()).mapped());
    }
  }

  const std::unique_ptr<ClientTransport> inner_;
  const FaultOptions options_;
  const std::shared_ptr<FaultCounts> counts_;
  uint64_t drawn_ = 0;
  uint64_t sent_ = 0;
  uint64_t latest_out_ = 0;
  std::multimap<Clock::time_point, Held> held_;   // by when they go out
  std::deque<std::pair<size_t, Message>> again_;  // replies to be received a second time
};

}  // namespace

std::unique_ptr<ClientTransport> MakeFaulty(std::unique_ptr<ClientTransport> inner,
                                            const FaultOptions& options,
                                            std::shared_ptr<FaultCounts> counts) {
  return std::make_unique<FaultyTransport>(std::move(inner), options, std::move(counts));
}

}  // namespace mf
