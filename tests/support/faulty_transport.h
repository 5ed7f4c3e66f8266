// A client's transport that misbehaves as far as the protocol must bear: requests and replies come
// twice, late or not at all, requests overtake one another, a copy of a request may come long after
// its step has ended, and now and then the connection loses everything for a while. The faults are
// drawn from a seed.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "common/net/transport.h"

namespace mf {

struct FaultOptions {
  uint64_t seed = 1;
  double duplicate = 0.15;  // share of requests, and of replies, that come twice
  double hold = 0.25;       // share of requests that are held back, so that later ones overtake
  int hold_us_max = 500;    // how long
  int copy_hold_us_max = 30'000;  // the same for the second copy, which nobody waits for
  double drop = 0;                // share of requests, and of replies, that are lost
  double late = 0;                // share of replies that are held back
  int late_us_max = 3'000;        // how long
  double cut = 0;                 // chance of each request to begin a cut: all is lost both ways
  int cut_ms_max = 100;           // how long

  bool loses() const { return drop > 0 || cut > 0; }
};

/// What has happened so far. Outlives the transport, so that a test can see that it tested
/// something.
struct FaultCounts {
  std::atomic<uint64_t> duplicated_requests{0};
  std::atomic<uint64_t> duplicated_replies{0};
  std::atomic<uint64_t> overtaken{0};  // requests that went out after one that was asked for later
  std::atomic<uint64_t> lost_requests{0};
  std::atomic<uint64_t> lost_replies{0};
  std::atomic<uint64_t> late_replies{0};
  std::atomic<uint64_t> cuts{0};
};

std::unique_ptr<ClientTransport> MakeFaulty(std::unique_ptr<ClientTransport> inner,
                                            const FaultOptions& options,
                                            std::shared_ptr<FaultCounts> counts);

}  // namespace mf
