// The work board's messages on server 0: who asked what, parked, answered and answered again. The
// board itself (pserver/board.h) knows tickets only.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "common/config.h"
#include "common/messages.h"
#include "pserver/ask_log.h"
#include "pserver/board.h"

namespace mf {

class BoardDesk {
 public:
  using Send = std::function<void(const std::string& peer, Reply reply)>;

  BoardDesk(const Config& config, uint64_t boot_count, Send send)
      : board_(config.train, config.train.micro_batches * config.tokens_per_micro_batch(),
               boot_count),
        send_(std::move(send)) {}

  /// Any board operation of a joined worker. Sets *answered if the reply is sent by the desk, now
  /// or later; else the caller answers with the status.
  Status Handle(const std::string& peer, const Request& request, double now, bool* answered);
  void Tick(double now) { SendGrants(board_.Tick(now)); }

  const Board& board() const { return board_; }

 private:
  Status Lease(const std::string& peer, const Request& request, double now, bool* answered);
  void SendGrants(const Board::Grants& grants);

  Board board_;
  AskLog asks_;
  const Send send_;
};

}  // namespace mf
