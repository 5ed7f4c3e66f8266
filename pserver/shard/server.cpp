#include "pserver/shard/server.h"

#include <chrono>

namespace mf {
namespace {

constexpr int kTickMs = 50;         // how late a lease's end may be noticed
constexpr int kWriterMs = 2;        // between looks at the writer of a snapshot
constexpr size_t kInboxMax = 1024;  // requests taken in ahead; the rest waits in the socket
constexpr int kTakenMax = 1024;     // messages of any kind taken in before a request is worked on

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Server::Server(std::unique_ptr<ServerTransport> transport, const RunHost::Options& options,
               int threads, Metrics* metrics)
    : transport_(std::move(transport)),
      pool_(threads),
      metrics_(metrics),
      host_(options, pool_,
            [this](const std::string& peer, const Reply& reply) { SendReply(peer, reply); }),
      thread_([this] { Run(); }) {}

Server::~Server() {
  stopping_.store(true);
  transport_->Wake();
  thread_.join();
}

void Server::Run() {
  ShowCounters();
  double last_tick = Now();
  while (!stopping_.load()) {
    const bool more = host_.Work(Now());
    Drain(more ? 0 : host_.writing_snapshot() ? kWriterMs : kTickMs);
    if (!inbox_.empty()) {
      const Received received = std::move(inbox_.front());
      inbox_.pop_front();
      Handle(received);
    }
    if (const double now = Now(); now - last_tick >= kTickMs / 1000.0) {
      Drain(0);
      host_.Tick(now);
      last_tick = now;
    }
  }
  // The last snapshot of a run is begun with its last step.
  while (host_.writing_snapshot()) {
    if (!host_.Work(Now())) std::this_thread::sleep_for(std::chrono::milliseconds(kWriterMs));
  }
}

/// Counters start at 0, so that the first rejection shows as an increase.
void Server::ShowCounters() {
  if (metrics_ == nullptr) return;
  metrics_->Count(Metric::kRepliesUnsent, {}, 0);
  metrics_->Count(Metric::kRequestsRejected, {"malformed"}, 0);
  for (int code = static_cast<int>(Code::kInvalid); code < kCodeCount; ++code) {
    metrics_->Count(Metric::kRequestsRejected, {CodeName(static_cast<Code>(code))}, 0);
  }
}

/// Takes in what has arrived, waiting up to `idle_ms` if there is nothing to do. Renewals of leases
/// are handled at once: those that came while a long request was worked on must not find their
/// lease expired. Messages that do not fill the inbox (renewals, and what does not parse) are
/// bounded, too: a peer that sends nothing else must not keep the server from its work.
void Server::Drain(int idle_ms) {
  std::string peer;
  Message message;
  for (int taken = 0; taken < kTakenMax && inbox_.size() < kInboxMax; ++taken) {
    const bool idle = inbox_.empty() && taken == 0;
    if (!transport_->Receive(idle ? idle_ms : 0, &peer, &message)) return;
    Result<Request> request = DecodeRequest(message);
    if (!request.ok()) {
      malformed_.fetch_add(1);  // nobody to answer: the id is not known
      if (metrics_ != nullptr) metrics_->Count(Metric::kRequestsRejected, {"malformed"});
      continue;
    }
    if (metrics_ != nullptr) {
      metrics_->AddWireBytes(OpName(request->op()), Direction::kReceived, BytesOf(message));
    }
    Received received{peer, std::move(request).value(), Now()};
    if (received.request.op() == Op::kRenew) {
      Handle(received);
    } else {
      inbox_.push_back(std::move(received));
    }
  }
}

void Server::Handle(const Received& received) {
  handled_ = &received;
  host_.Handle(received.peer, received.request, Now());
  handled_ = nullptr;
}

void Server::SendReply(const std::string& peer, const Reply& reply) {
  const Message message = Encode(reply);
  if (!transport_->Send(peer, message)) {
    unsent_.fetch_add(1);
    if (metrics_ != nullptr) metrics_->Count(Metric::kRepliesUnsent);
  }
  if (metrics_ == nullptr) return;
  metrics_->AddWireBytes(OpName(reply.op), Direction::kSent, BytesOf(message));
  // Not of a request for work that was waiting: that one waited for work, not for the server.
  if (handled_ != nullptr && handled_->request.id == reply.id && handled_->peer == peer) {
    metrics_->ObserveRequest(OpName(reply.op), Now() - handled_->at);
  }
}

}  // namespace mf
