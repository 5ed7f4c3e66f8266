// How many bytes of replies wait for clients that do not read them. libzmq bounds their number
// only; a reply that finds no room is not sent, and the client asks again.
//
// A client's replies may take as many bytes as are still free, so one that never reads takes half
// of the room at most, and the others find theirs (pserver/shard/inbox.h has the same rule, and its
// source). Who has nothing waiting is sent a reply whatever its size.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>

#include "common/net/transport.h"

namespace mf {

/// Used by one thread; frames may be let go by any.
class UnreadReplies {
 public:
  explicit UnreadReplies(uint64_t bytes_max) : bytes_max_(bytes_max) {}

  /// The same message, of which every frame is counted until the last copy of it is let go; small
  /// ones, which libzmq copies, are not. Empty if there is no room for it.
  Message Count(const std::string& peer, const Message& message);
  /// Whether a reply without bytes to speak of would find room.
  bool HasRoomFor(const std::string& peer) const;
  uint64_t bytes() const { return all_->load(); }

  /// Frames up to here are copied when they are sent.
  static constexpr size_t kCopied = 256;

 private:
  using Bytes = std::shared_ptr<std::atomic<uint64_t>>;
  uint64_t Left() const { return bytes_max_ - std::min(bytes_max_, all_->load()); }
  static Bytes NewBytes() { return std::make_shared<std::atomic<uint64_t>>(0); }

  const uint64_t bytes_max_;
  const Bytes all_ = NewBytes();
  std::unordered_map<std::string, Bytes> peers_;
};

}  // namespace mf
