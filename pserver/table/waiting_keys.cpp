#include "pserver/table/waiting_keys.h"

#include <algorithm>
#include <tuple>

namespace mf {

void WaitingKeys::Erase(uint64_t row, uint32_t clock) {
  const auto found = keys_.find(row);
  if (found == keys_.end()) return;
  removed_.Add(row, clock);
  keys_.erase(found);
}

void WaitingKeys::Limit(size_t most, uint32_t clock) {
  if (keys_.size() <= most) return;
  std::vector<std::pair<uint32_t, uint64_t>> oldest;  // (hit last, row)
  oldest.reserve(keys_.size());
  for (const auto& [row, key] : keys_) oldest.emplace_back(key.state.at, row);
  const auto end = oldest.begin() + static_cast<ptrdiff_t>(keys_.size() - most);
  std::nth_element(oldest.begin(), end - 1, oldest.end());
  for (auto one = oldest.begin(); one != end; ++one) Erase(one->second, clock);
}

void WaitingKeys::Expire(uint32_t last, uint32_t clock) {
  std::vector<uint64_t> going;
  for (const auto& [row, key] : keys_) {
    if (key.state.at <= last) going.push_back(row);
  }
  for (const uint64_t row : going) Erase(row, clock);
}

std::vector<WaitingKeys::Change> WaitingKeys::ChangedSince(int64_t since) {
  removed_.Expect();
  std::vector<Change> changes;
  for (const auto& [row, key] : keys_) {
    if (key.changed > since) changes.push_back({.row = row, .state = key.state});
  }
  for (const uint64_t row :
       removed_.Since(since, [this](uint64_t one) { return keys_.contains(one); })) {
    changes.push_back({.row = row, .removed = true});
  }
  std::ranges::sort(changes, {}, [](const Change& one) { return one.row; });
  return changes;
}

}  // namespace mf
