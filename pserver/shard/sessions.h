// Who has said hello: numbers that cannot be guessed, of which the oldest are forgotten when there
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
  /// A hello's session: the one that it comes with, where that is known, so that who says hello
  /// again (a restart of another server asks for it) stays one and the same; else a new one.
  uint64_t Renew(uint64_t session) {
    if (contains(session)) return session;
    std::random_device random;
    session = uint64_t{random()} << 32 | random();
    order_.push_back(session);  // first: none is known that will not be forgotten
    known_.insert(session);
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
