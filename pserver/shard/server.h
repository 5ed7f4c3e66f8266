// A parameter server around its socket: one thread that receives, lets a Host decide, and sends.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "common/base/thread_pool.h"
#include "common/net/transport.h"
#include "pserver/shard/host.h"
#include "pserver/shard/inbox.h"
#include "pserver/shard/run_host.h"

namespace mf {

class Server {
 public:
  /// Serves from a thread of its own until End() or until destroyed, which waits for a snapshot
  /// being written.
  /// `threads`: of the kernels. `metrics` counts requests and bytes and outlives the server; none
  /// where the clients in the same process do. `waiting_bytes`: room for requests that wait for
  /// others; 0: an eighth of the memory that this process may use.
  Server(std::unique_ptr<ServerTransport> transport, const RunHost::Options& options, int threads,
         Metrics* metrics = nullptr, uint64_t waiting_bytes = 0);
  /// The same with another host than a RunHost.
  using MakeHost = std::function<std::unique_ptr<Host>(ThreadPool& pool, Shard::Send send)>;
  Server(std::unique_ptr<ServerTransport> transport, const MakeHost& make_host, int threads,
         Metrics* metrics = nullptr, uint64_t waiting_bytes = 0);
  ~Server();

  enum class Ended {
    kSaved,    // or there was nothing to save
    kUnsaved,  // the last finished step could not be written; the log says why
    kLate,     // the disk hangs, perhaps, and so would the destructor
  };
  /// Publishes the state of the last finished step and goes on answering until that is done and
  /// workers that end at the same time have heard of it, but no longer than `grace_seconds`.
  Ended End(double grace_seconds);

  const std::string& address() const { return transport_->address(); }
  /// Messages that did not parse, and replies that found nobody.
  uint64_t malformed() const { return malformed_.load(); }
  uint64_t unsent() const { return unsent_.load(); }

 private:
  void Run();
  /// Waits for messages, takes them in and handles one; time passes.
  void WorkOnce();
  void OutOfMemory();
  /// After End(): whether all is done.
  bool ReadyToEnd(double now);
  void ShowCounters();
  void TellHealth();
  void Drain(int idle_ms);
  void Handle(const Inbox::Item& received);
  /// That there is no room for the request.
  void Refuse(const Inbox::Item& received);
  /// Called when something takes long: see Host::HandleMeanwhile.
  void AnswerMeanwhile();
  void CountUnsent();
  void SendReply(const std::string& peer, const Reply& reply);

  const std::unique_ptr<ServerTransport> transport_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> ending_{false};
  std::atomic<bool> over_{false};      // the thread has nothing more to do
  std::atomic<bool> unsaved_{false};   // written before over_
  std::optional<double> quiet_since_;  // used by thread_ only: the state is saved, and nobody asks
  std::atomic<uint64_t> malformed_{0};
  std::atomic<uint64_t> unsent_{0};
  ThreadPool pool_;
  Metrics* const metrics_;
  // Used by thread_ only.
  const std::unique_ptr<Host> host_;
  Inbox inbox_;
  const Inbox::Item* handled_ = nullptr;
  bool meanwhile_ = false;
  double last_tick_ = 0;
  double out_of_memory_told_ = -1e9;
  std::thread thread_;
};

}  // namespace mf
