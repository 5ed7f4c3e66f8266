#include "pserver/shard/inbox.h"

#include <algorithm>
#include <utility>

namespace mf {
namespace {
constexpr size_t kPeersKept = 1024;  // more than have something waiting, most of the time
}  // namespace

bool Inbox::Put(Item& item) {
  const auto found = peers_.find(item.peer);
  const uint64_t waiting = found == peers_.end() ? 0 : found->second.bytes;
  const size_t count = found == peers_.end() ? 0 : found->second.items.size();
  if (bytes_ >= bytes_max_ || items_ >= items_max_) return false;
  if (count > 0 && (waiting + item.bytes > bytes_max_ - bytes_ || count >= items_max_ - items_)) {
    return false;
  }
  Peer& peer = peers_[item.peer];
  // Who had nothing waiting has saved nothing up.
  if (count == 0) peer.paid = std::max(peer.paid, now_);
  const uint64_t bytes = item.bytes;
  peer.items.push_back(std::move(item));  // first: memory may end
  ++items_;
  bytes_ += bytes;
  peer.bytes += bytes;
  return true;
}

std::optional<Inbox::Item> Inbox::Next() {
  if (items_ == 0) return std::nullopt;
  // Few peers have something waiting: workers wait for answers.
  auto next = peers_.end();
  for (auto peer = peers_.begin(); peer != peers_.end(); ++peer) {
    if (peer->second.items.empty()) continue;
    if (next == peers_.end() || peer->second.paid < next->second.paid ||
        (peer->second.paid == next->second.paid &&
         peer->second.items.front().at < next->second.items.front().at)) {
      next = peer;
    }
  }
  Peer& peer = next->second;
  Item item = std::move(peer.items.front());
  peer.items.pop_front();
  peer.bytes -= item.bytes;
  bytes_ -= item.bytes;
  --items_;
  now_ = peer.paid;
  served_ = item.peer;
  return item;
}

void Inbox::Served(double seconds) {
  const auto found = peers_.find(served_);
  if (found == peers_.end()) return;
  found->second.paid += seconds * static_cast<double>(1 + found->second.items.size());
  if (peers_.size() <= kPeersKept) return;
  // Those with nothing waiting, who would lose nothing but their place behind others.
  std::erase_if(peers_, [](const auto& peer) { return peer.second.items.empty(); });
}

}  // namespace mf
