// The work board's messages on server 0: who asked what, parked, answered and answered again. The
// board itself (pserver/board/board.h) knows tickets only.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "common/config/config.h"
#include "common/metrics/metrics.h"
#include "common/net/messages.h"
#include "pserver/board/ask_log.h"
#include "pserver/board/board.h"

namespace mf {

class BoardDesk {
 public:
  using Send = std::function<void(const std::string& peer, Reply reply)>;

  /// `metrics` outlives it; nullptr: nothing is told.
  BoardDesk(const Config& config, uint64_t boot_count, Metrics* metrics, Send send);

  /// Any board operation of a joined worker. Sets *answered if the reply is sent by the desk, now
  /// or later; else the caller answers with the status.
  Status Handle(const std::string& peer, const Request& request, double now, bool* answered);
  void Tick(double now);

  const Board& board() const { return board_; }
  /// See Board::Restore.
  void Restore(uint64_t step, const std::vector<StepRecord>& records) {
    board_.Restore(step, records);
  }

 private:
  Status HandOn(const std::string& peer, const Request& request, double now, bool* answered);
  Status Lease(const std::string& peer, const Request& request, double now, bool* answered);
  void SendGrants(const Board::Grants& grants);
  /// Tells the metrics what has changed on the board.
  void Observe(double now);

  Board board_;
  AskLog asks_;
  Metrics* const metrics_;
  const Send send_;
  const double live_seconds_;         // a worker that says nothing for so long does not count
  std::map<uint64_t, double> heard_;  // by session: when last
  const char* phase_;                 // as last observed, with its step
  uint64_t phase_step_ = 0;
  double phase_since_ = -1;  // -1: not observed yet
  uint64_t expired_ = 0;
};

}  // namespace mf
