// Micro-batches in order, once (DESIGN 2.5): a state machine per tensor. A contribution that
// arrives early waits, one that arrives again is not added again. No socket, thread, clock or file
// inside.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "common/base/buffer_pool.h"

namespace mf {

template <class Contribution>
class ContributionOrder {
 public:
  using Ready = std::vector<Contribution, PoolAllocator<Contribution>>;

  /// Micro-batches [0, watermark) of the open step have been handed out to be added.
  uint64_t watermark() const { return watermark_; }
  size_t waiting() const { return waiting_.size(); }

  /// True if micro-batch `number` is neither added nor waiting.
  bool Accepts(uint64_t number) const { return number >= watermark_ && !waiting_.contains(number); }

  /// Takes the contribution of micro-batch `number`; returns those to be added now, in order (none
  /// if it waits or was seen before).
  Ready Offer(uint64_t number, Contribution contribution) {
    Ready ready;
    if (!Accepts(number)) return ready;
    waiting_.emplace(number, std::move(contribution));
    for (auto next = waiting_.find(watermark_); next != waiting_.end();
         next = waiting_.find(watermark_)) {
      ready.push_back(std::move(next->second));
      waiting_.erase(next);
      ++watermark_;
    }
    return ready;
  }

  /// The step has ended, or was rolled back.
  void Reset() {
    watermark_ = 0;
    waiting_.clear();
  }

 private:
  uint64_t watermark_ = 0;
  std::map<uint64_t, Contribution, std::less<>,
           PoolAllocator<std::pair<const uint64_t, Contribution>>>
      waiting_;
};

}  // namespace mf
