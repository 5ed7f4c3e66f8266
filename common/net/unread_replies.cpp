#include "common/net/unread_replies.h"

#include <utility>

#include "common/base/buffer_pool.h"

namespace mf {
namespace {

constexpr size_t kPeersKept = 1024;

/// Of a frame: takes its bytes off the counts when the last copy goes.
struct CountedOwner {
  CountedOwner(std::shared_ptr<const void> its, std::shared_ptr<std::atomic<uint64_t>> its_peer,
               std::shared_ptr<std::atomic<uint64_t>> everybody, size_t its_bytes)
      : owner(std::move(its)),
        peer(std::move(its_peer)),
        all(std::move(everybody)),
        bytes(its_bytes) {
    peer->fetch_add(bytes);
    all->fetch_add(bytes);
  }
  ~CountedOwner() {
    peer->fetch_sub(bytes);
    all->fetch_sub(bytes);
  }
  CountedOwner(const CountedOwner&) = delete;

  const std::shared_ptr<const void> owner;
  const std::shared_ptr<std::atomic<uint64_t>> peer, all;
  const size_t bytes;
};

}  // namespace

Message UnreadReplies::Count(const std::string& peer, const Message& message) {
  if (peers_.size() > kPeersKept) {
    std::erase_if(peers_, [](const auto& one) { return one.second->load() == 0; });
  }
  Bytes& waiting = peers_[peer];
  if (waiting == nullptr) waiting = NewBytes();
  const uint64_t taken = waiting->load();
  if (taken > 0 && taken + BytesOf(message) > Left()) return {};
  Message counted;
  for (const Frame& frame : message) {
    if (frame.size() <= kCopied) {
      counted.push_back(frame);
      continue;
    }
    auto owner = std::allocate_shared<CountedOwner>(PoolAllocator<CountedOwner>(), frame.owner(),
                                                    waiting, all_, frame.size());
    counted.push_back(Frame(std::move(owner), frame.data(), frame.size()));
  }
  return counted;
}

bool UnreadReplies::HasRoomFor(const std::string& peer) const {
  const auto found = peers_.find(peer);
  const uint64_t taken = found == peers_.end() ? 0 : found->second->load();
  return taken == 0 || taken < Left();
}

}  // namespace mf
