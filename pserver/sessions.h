// Who has said hello: numbers that can not be guessed, of which the oldest are forgotten when there
// are too many (their owners say hello again).
#pragma once

#include <cstdint>
#include <deque>
#include <random>
#include <unordered_set>

namespace mf {

class Sessions {
 public:
  explicit Sessions(size_t most) : most_(most) {}

  bool contains(uint64_t session) const { return known_.contains(session); }
  uint64_t New() {
    std::random_device random;
    const uint64_t session = uint64_t{random()} << 32 | random();
    known_.insert(session);
    order_.push_back(session);
    if (order_.size() > most_) {
      known_.erase(order_.front());
      order_.pop_front();
    }
    return session;
  }

 private:
  const size_t most_;
  std::unordered_set<uint64_t> known_;
  std::deque<uint64_t> order_;  // oldest first
};

}  // namespace mf
