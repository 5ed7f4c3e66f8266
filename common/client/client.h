// Asynchronous requests to all servers at once: any number of threads may call, many requests are
// in flight, and a call is done when every server it went to has answered. A request without an
// answer is sent again under the same id, as servers do nothing twice. Busy is not dead: servers
// answer at once to who asks how they are, so those that a call waits for are asked, and a call
// fails only if one of them has been silent for long.
//
// A small request should cost little more than its way through ZeroMQ, and waking another thread on
// an idle core costs as much as that way. So the threads that call do the work themselves. The
// transport belongs to whoever holds the mutex. A request is sent by the thread that makes it. Of
// the threads that wait for answers one leads: it alone waits for the transport, without the
// mutex, and takes in what comes for everybody; when its own answer is there, it wakes another to
// lead. The client's own thread looks after time: deadlines, repeats, and, every few milliseconds,
// answers that nobody waits for. It does not poll, so that it does not wake up for what a waiting
// thread takes in. What keeps this from waiting for ever:
//  - Whoever sends while the leader waits then takes in what there is, as a send may take away the
//    news that the leader waits for (transport.h); if that completes the leader's call, it is
//    woken.
//  - Whoever leaves, for whatever reason, while nobody leads wakes one of those that follow.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "common/base/mutex.h"
#include "common/client/answer.h"
#include "common/metrics/metrics.h"
#include "common/net/messages.h"
#include "common/net/transport.h"

namespace mf {

/// What went over the wire for one operation, payload and header frames together.
struct Traffic {
  std::atomic<uint64_t> calls{0};  // calls, whatever the number of servers
  std::atomic<uint64_t> sent_bytes{0};
  std::atomic<uint64_t> received_bytes{0};
};

/// A call that is under way: the client's side of an Answer.
struct OpenCall {
  using Clock = std::chrono::steady_clock;
  // The client's, which guards the rest. The analysis cannot know that it is the same one: what
  // takes a call as its argument says so instead.
  std::shared_ptr<Mutex> mutex;
  ConditionVariable changed;  // `outcome`, or nobody leads any more
  std::optional<Result<std::vector<Reply>>>
      outcome;  // set once; the call is then no longer in calls_
  Op op;
  size_t waiting = 0;             // servers that have not answered
  std::vector<Message> messages;  // by server, for repeats; emptied when answered
  size_t first_server = 0;
  std::vector<Reply> replies;
  std::vector<bool> answered;
  Clock::time_point start;
  Clock::duration patience;    // with a server that says nothing at all
  Clock::time_point deadline;  // whatever servers say
  Clock::time_point resend;
  double resend_seconds = 0;
};

class Client {
 public:
  /// See Answer::get().
  using Outcome = Result<std::vector<Reply>>;
  using Answer = mf::Answer;

  struct Options {
    double deadline_seconds = 60;  // of a server's silence: then its calls fail and name it
    double resend_seconds = 5;     // first repeat of an unanswered request; doubles, with jitter
    Metrics* metrics = nullptr;    // outlives the client; none: nothing is counted there
  };

  Client(std::unique_ptr<ClientTransport> transport, std::vector<std::string> addresses,
         Options options);
  /// Open calls fail, also those that threads are waiting for. Nobody calls any more.
  ~Client();

  size_t servers() const { return addresses_.size(); }

  /// Sends requests[i] to server i.
  Answer CallAll(std::vector<Request> requests);
  /// The same to one server; the outcome holds one reply.
  Answer Call(size_t server, Request request);

  /// The process is to end soon: open calls fail at the latest so long after now, later ones so
  /// long after their start.
  void LimitDeadlines(double seconds);

  /// The session that hello returned, stamped on every later request to that server.
  void SetSession(size_t server, uint64_t session);

  /// Requests that were sent again because no answer came.
  uint64_t resends() const { return resends_.load(); }
  const Traffic& traffic(Op op) const { return traffic_[static_cast<size_t>(op)]; }

 private:
  friend class mf::Answer;
  using Clock = std::chrono::steady_clock;
  Answer Start(std::vector<Request> requests, size_t first_server);
  void CountBytes(Op op, Direction direction, uint64_t bytes);
  void SayBusy(size_t server, const std::string& message) MF_REQUIRES(*mutex_);
  /// With what they say that they are doing.
  std::string UnansweredServers(const OpenCall& call) const MF_REQUIRES(*mutex_);

  /// Until `own` is done: leads, or follows whoever leads. Gives up the mutex while it waits.
  void Await(OpenCall& own) MF_REQUIRES(*mutex_);
  void Lead(OpenCall& own) MF_REQUIRES(*mutex_);
  /// Takes in messages until there is none (true), `own` is done or there were very many.
  bool ReceiveAvailable(const OpenCall* own) MF_REQUIRES(*mutex_);
  void OnMessage(size_t server, const Message& message) MF_REQUIRES(*mutex_);
  /// A message that cannot be sent now is not answered either: the call's deadline reports it.
  void Send(size_t server, const Message& message) MF_REQUIRES(*mutex_);
  /// Comes after Send() and before the mutex is given up.
  void ReceiveForLeader() MF_REQUIRES(*mutex_);
  /// Sets the outcome and wakes who waits for it. The caller takes the call out of calls_.
  void Complete(OpenCall& call, Outcome outcome) MF_REQUIRES(*mutex_);
  /// The work of thread_.
  void WatchTime() MF_EXCLUDES(*mutex_);
  /// Fails calls past their deadline, repeats requests that are due, asks servers that calls wait
  /// for how they are, says whom long calls wait for.
  void CheckCalls() MF_REQUIRES(*mutex_);
  /// Why a call fails now; Ok: it goes on.
  Status CheckDeadline(const OpenCall& call, Clock::time_point now) const MF_REQUIRES(*mutex_);
  void AskHowTheyAre(const OpenCall& call, Clock::time_point now) MF_REQUIRES(*mutex_);
  void Repeat(OpenCall& call, Clock::time_point now) MF_REQUIRES(*mutex_);
  void SendAgain(OpenCall& call, size_t i) MF_REQUIRES(*mutex_);
  /// Repeats what servers that were connected to again have not answered: it may be lost.
  void RepeatAfterReconnects() MF_REQUIRES(*mutex_);

  const std::unique_ptr<ClientTransport> transport_;
  const std::vector<std::string> addresses_;
  const Options options_;
  std::array<Traffic, kOpCount> traffic_;
  std::vector<std::atomic<uint64_t>> sessions_;
  std::atomic<uint64_t> next_id_{1};
  std::atomic<uint64_t> resends_{0};
  std::atomic<double> deadline_limit_{1e9};  // seconds

  // Guards the transport, too. Shared with the calls, as answers may outlive the client.
  const std::shared_ptr<Mutex> mutex_ = std::make_shared<Mutex>();
  std::unordered_map<uint64_t, std::shared_ptr<OpenCall>> calls_ MF_GUARDED_BY(*mutex_);
  OpenCall* leader_ MF_GUARDED_BY(*mutex_) = nullptr;  // what the thread that leads waits for
  bool leader_waits_ MF_GUARDED_BY(*mutex_) = false;   // it is in transport_->Wait()
  // What the others wait for, the longest first.
  std::vector<OpenCall*> followers_ MF_GUARDED_BY(*mutex_);
  size_t awaiting_ MF_GUARDED_BY(*mutex_) = 0;  // threads in Await()
  ConditionVariable nobody_awaits_;
  bool closing_ MF_GUARDED_BY(*mutex_) = false;
  ConditionVariable closes_;
  std::minstd_rand random_ MF_GUARDED_BY(*mutex_);            // jitter only
  std::vector<uint64_t> connections_ MF_GUARDED_BY(*mutex_);  // by server, as last looked at
  struct Life {
    Clock::time_point heard{};  // any message
    Clock::time_point asked{};  // how it is
    std::string doing;          // what it said last (RunState)
  };
  std::vector<Life> lives_ MF_GUARDED_BY(*mutex_);  // by server
  Clock::time_point last_said_ MF_GUARDED_BY(*mutex_){};
  Clock::time_point said_busy_ MF_GUARDED_BY(*mutex_){};
  std::thread thread_;
};

}  // namespace mf
