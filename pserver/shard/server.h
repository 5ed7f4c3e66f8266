// A parameter server around its socket: one thread that receives, lets the RunHost decide, and
// sends.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <string>
#include <thread>

#include "common/base/thread_pool.h"
#include "common/net/transport.h"
#include "pserver/shard/run_host.h"

namespace mf {

class Server {
 public:
  /// Serves from a thread of its own until destroyed, which waits for a snapshot being written.
  /// `threads`: of the kernels. `metrics` counts requests and bytes and outlives the server; none
  /// where the clients in the same process do.
  Server(std::unique_ptr<ServerTransport> transport, const RunHost::Options& options, int threads,
         Metrics* metrics = nullptr);
  ~Server();

  const std::string& address() const { return transport_->address(); }
  /// Messages that did not parse, and replies that found nobody.
  uint64_t malformed() const { return malformed_.load(); }
  uint64_t unsent() const { return unsent_.load(); }

 private:
  struct Received {
    std::string peer;
    Request request;
    double at = 0;
  };
  void Run();
  void ShowCounters();
  void Drain(int idle_ms);
  void Handle(const Received& received);
  void SendReply(const std::string& peer, const Reply& reply);

  const std::unique_ptr<ServerTransport> transport_;
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> malformed_{0};
  std::atomic<uint64_t> unsent_{0};
  ThreadPool pool_;
  Metrics* const metrics_;
  RunHost host_;                                         // used by thread_ only
  std::deque<Received, PoolAllocator<Received>> inbox_;  // used by thread_ only
  const Received* handled_ = nullptr;                    // used by thread_ only
  std::thread thread_;
};

}  // namespace mf
