// Asynchronous requests to all servers at once. One thread of its own owns the transport; any
// number of threads may call; many requests are in flight; a call completes when every server it
// went to has answered, by future or by callback. A request without an answer is sent again under
// the same id, as servers do nothing twice.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <unordered_map>
#include <vector>

#include "common/messages.h"
#include "common/metrics.h"
#include "common/transport.h"

namespace mf {

/// What went over the wire for one operation, payload and header frames together.
struct Traffic {
  std::atomic<uint64_t> calls{0};  // calls, whatever the number of servers
  std::atomic<uint64_t> sent_bytes{0};
  std::atomic<uint64_t> received_bytes{0};
};

class Client {
 public:
  /// The replies in server order, or the first error: the transport's, or the code of a server's
  /// reply with the server's number before its message.
  using Outcome = Result<std::vector<Reply>>;
  using Callback = std::function<void(Outcome)>;

  struct Options {
    double deadline_seconds = 60;  // after which a call fails and names the silent servers
    double resend_seconds = 5;     // first repeat of an unanswered request; doubles, with jitter
    Metrics* metrics = nullptr;    // outlives the client; none: nothing is counted there
  };

  Client(std::unique_ptr<ClientTransport> transport, std::vector<std::string> addresses,
         Options options);
  ~Client();  // open calls fail

  size_t servers() const { return addresses_.size(); }

  /// Sends requests[i] to server i. The callback runs in the client's thread and must not block.
  void CallAll(std::vector<Request> requests, Callback callback);
  std::future<Outcome> CallAll(std::vector<Request> requests);
  /// The same to one server; the outcome holds one reply.
  std::future<Outcome> Call(size_t server, Request request);

  /// The session that hello returned, stamped on every later request to that server.
  void SetSession(size_t server, uint64_t session);

  /// Requests that were sent again because no answer came.
  uint64_t resends() const { return resends_.load(); }
  const Traffic& traffic(Op op) const { return traffic_[static_cast<size_t>(op)]; }

 private:
  using Clock = std::chrono::steady_clock;
  struct OpenCall {
    Op op;
    size_t waiting = 0;             // servers that have not answered
    std::vector<Message> messages;  // by server, for repeats; emptied when answered
    size_t first_server = 0;
    std::vector<Reply> replies;
    std::vector<bool> answered;
    Callback callback;
    Clock::time_point start;
    Clock::time_point deadline;
    Clock::time_point resend;
    double resend_seconds = 0;
  };
  struct Outgoing {
    size_t server;
    Message message;
  };

  void Start(std::vector<Request> requests, size_t first_server, Callback callback);
  void Run();
  void SendQueued();
  void OnMessage(size_t server, const Message& message);
  void CountBytes(Op op, Direction direction, uint64_t bytes);
  /// Fails calls past their deadline, repeats requests that are due, says whom long calls wait for.
  void CheckCalls();
  void Repeat(OpenCall& call, Clock::time_point now);
  std::string SilentServers(const OpenCall& call) const;

  const std::unique_ptr<ClientTransport> transport_;
  const std::vector<std::string> addresses_;
  const Options options_;
  std::array<Traffic, kOpCount> traffic_;
  std::vector<std::atomic<uint64_t>> sessions_;
  std::atomic<uint64_t> next_id_{1};
  std::atomic<uint64_t> resends_{0};
  std::atomic<bool> stopping_{false};

  std::mutex mutex_;
  std::vector<Outgoing> queue_;                   // guarded by mutex_
  std::unordered_map<uint64_t, OpenCall> calls_;  // guarded by mutex_
  std::minstd_rand random_;                       // guarded by mutex_: jitter only
  Clock::time_point last_said_{};                 // guarded by mutex_
  std::thread thread_;
};

}  // namespace mf
