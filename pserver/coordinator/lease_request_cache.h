// Lease requests and their answers (DESIGN 2.5: retries are harmless). A request that comes again
// is not granted a second piece of work, which nobody would do; it gets the answer of the first.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "common/base/check.h"
#include "common/net/messages.h"

namespace mf {

class LeaseRequestCache {
 public:
  struct Ask {
    uint64_t session = 0;
    uint64_t request_id = 0;
    std::string peer;             // where the last repeat came from
    std::optional<Reply> answer;  // once granted, without the records after known_step
    uint64_t known_step = 0;
  };

  /// The ask of this session and request id if it is known: with its answer, or still waiting.
  Ask* Find(uint64_t session, uint64_t request_id) {
    const auto found = tickets_.find({session, request_id});
    return found == tickets_.end() ? nullptr : &asks_.at(found->second);
  }
  /// A new ask; its ticket goes to the coordinator.
  uint64_t Add(uint64_t session, uint64_t request_id, const std::string& peer) {
    const uint64_t ticket = next_ticket_++;
    asks_[ticket] = {session, request_id, peer, {}};
    tickets_[{session, request_id}] = ticket;
    return ticket;
  }
  uint64_t RequestId(uint64_t ticket) const { return asks_.at(ticket).request_id; }
  /// Keeps the answer for repeats; the oldest answers are forgotten. Without its records, which may
  /// be a hundred times as large and can be had again.
  const Ask& Answer(uint64_t ticket, Reply reply, uint64_t known_step) {
    Ask& ask = asks_.at(ticket);
    ask.answer = std::move(reply);
    ask.known_step = known_step;
    answered_.push_back(ticket);
    if (answered_.size() > kAnswersKept) {
      const auto oldest = asks_.find(answered_.front());
      tickets_.erase({oldest->second.session, oldest->second.request_id});
      asks_.erase(oldest);
      answered_.pop_front();
    }
    return ask;
  }

 private:
  static constexpr size_t kAnswersKept = 1024;  // far more asks than workers have lanes
  uint64_t next_ticket_ = 1;
  std::map<uint64_t, Ask> asks_;                               // by ticket
  std::map<std::pair<uint64_t, uint64_t>, uint64_t> tickets_;  // by session and request
  std::deque<uint64_t> answered_;
};

}  // namespace mf
