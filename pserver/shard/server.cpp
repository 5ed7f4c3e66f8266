#include "pserver/shard/server.h"

#include <chrono>
#include <new>
#include <string>
#include <utility>

#include "common/base/buffer_pool.h"
#include "common/base/logging.h"
#include "common/base/machine_limits.h"

namespace mf {
namespace {

constexpr int kTickMs = 50;              // how late a lease's end may be noticed
constexpr int kWriterMs = 2;             // between looks at the writer of a snapshot
constexpr double kLingerSeconds = 1;     // for workers that end, too, and ask what is saved
constexpr size_t kWaitingMax = 16'384;   // requests that wait for others; the rest is refused
constexpr double kTakingSeconds = 5e-4;  // of taking messages in, before a request is worked on
constexpr int kTakenMax = 1024;  // messages of any kind taken in before a request is worked on
constexpr int kAtOnceMax = 16;   // hellos and the like answered before; more wait in line

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Server::Server(std::unique_ptr<ServerTransport> transport, const RunHost::Options& options,
               int threads, Metrics* metrics, uint64_t waiting_bytes)
    : Server(
          std::move(transport),
          [&options](ThreadPool& pool, Shard::Send send) {
            return std::make_unique<RunHost>(options, pool, std::move(send));
          },
          threads, metrics, waiting_bytes) {}

Server::Server(std::unique_ptr<ServerTransport> transport, const MakeHost& make_host, int threads,
               Metrics* metrics, uint64_t waiting_bytes)
    : transport_(std::move(transport)),
      pool_(threads),
      metrics_(metrics),
      host_(make_host(
          pool_, [this](const std::string& peer, const Reply& reply) { SendReply(peer, reply); })),
      inbox_(waiting_bytes != 0 ? waiting_bytes : MemoryLimitBytes() / 8, kWaitingMax),
      thread_([this] {
        pool_.SetYield([this] { AnswerMeanwhile(); });
        Run();
      }) {}

Server::~Server() {
  stopping_.store(true);
  transport_->Wake();
  thread_.join();
  pool_.SetYield(nullptr);  // nothing is answered any more
}

Server::Ended Server::End(double grace_seconds) {
  ending_.store(true);
  transport_->Wake();
  const double until = Now() + grace_seconds;
  while (!over_.load()) {
    if (Now() > until) return Ended::kLate;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return unsaved_.load() ? Ended::kUnsaved : Ended::kSaved;
}

bool Server::ReadyToEnd(double now) {
  if (!host_->ending()) host_->End(now);
  if (!quiet_since_.has_value()) {
    if (!host_->ReadyToEnd(now)) return false;
    quiet_since_ = now;
  }
  return !host_->HasWorkers(now) || now - *quiet_since_ > kLingerSeconds;
}

void Server::Run() {
  ShowCounters();
  last_tick_ = Now();
  while (!stopping_.load()) {
    try {
      if (ending_.load() && ReadyToEnd(Now())) break;
      WorkOnce();
    } catch (const std::bad_alloc&) {
      OutOfMemory();
    }
  }
  // The last snapshot of a run is begun with its last step.
  while (host_->writing_snapshot()) {
    if (!host_->Work(Now())) std::this_thread::sleep_for(std::chrono::milliseconds(kWriterMs));
  }
  unsaved_.store(host_->unsaved());
  over_.store(true);
}

void Server::WorkOnce() {
  const bool more = host_->Work(Now());
  Drain(more ? 0 : host_->writing_snapshot() ? kWriterMs : kTickMs);
  if (const std::optional<Inbox::Item> next = inbox_.Next(); next.has_value()) {
    const double begin = Now();
    if (transport_->HasRoomFor(next->peer)) {
      Handle(*next);
    } else {
      CountUnsent();  // what it would be answered: it does not read
    }
    inbox_.Served(Now() - begin);
  }
  if (const double now = Now(); now - last_tick_ >= kTickMs / 1000.0) {
    Drain(0);
    last_tick_ = now;
    host_->Tick(now);
    TellHealth();
  }
}

/// The message in hand is gone, as if the network had lost it: whoever sent it sends it again.
void Server::OutOfMemory() {
  constexpr double kBetweenWords = 60;
  EmptyPool();
  std::this_thread::sleep_for(std::chrono::milliseconds(kWriterMs));  // memory may come back
  if (Now() - out_of_memory_told_ < kBetweenWords) return;
  out_of_memory_told_ = Now();
  spdlog::error("out of memory for a message, which was dropped; use more servers");
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

/// Takes in what has arrived, waiting up to `idle_ms` if there is nothing to do. Some requests are
/// handled at once: whoever asks how the server is need not wait for what it is at, and renewals of
/// leases that came while a long request was worked on must not find their lease expired. The rest
/// waits in the inbox, or is refused, and not in the socket, where nobody knows how much it is. All
/// that is taken in at a time is bounded: a peer that never ends must not keep the server from its
/// work.
void Server::Drain(int idle_ms) {
  std::string peer;
  Message message;
  int at_once = 0;
  double first = 0;  // when that came
  for (int taken = 0; taken < kTakenMax; ++taken) {
    const bool idle = inbox_.empty() && taken == 0;
    if (!transport_->Receive(idle ? idle_ms : 0, &peer, &message)) return;
    if (taken == 0) first = Now();
    if (taken % 16 == 15 && Now() - first > kTakingSeconds) taken = kTakenMax;  // the last one
    Result<Request> request = DecodeRequest(message);
    if (!request.ok()) {
      malformed_.fetch_add(1);  // nobody to answer: the id is not known
      if (metrics_ != nullptr) metrics_->Count(Metric::kRequestsRejected, {"malformed"});
      continue;
    }
    const uint64_t bytes = BytesOf(message);
    if (metrics_ != nullptr) {
      metrics_->AddWireBytes(OpName(request->op()), Direction::kReceived, bytes);
    }
    Inbox::Item received{peer, std::move(request).value(), bytes, Now()};
    const Op op = received.request.op();
    if (op == Op::kRenew || (Shard::AnswersAtOnce(op) && ++at_once <= kAtOnceMax)) {
      Handle(received);
    } else {
      if (!inbox_.Put(received)) Refuse(received);
    }
  }
}

void Server::Refuse(const Inbox::Item& received) {
  if (metrics_ != nullptr) {
    metrics_->Count(Metric::kRequestsRejected, {CodeName(Code::kBusy)});
  }
  SendReply(received.peer, {.id = received.request.id,
                            .op = received.request.op(),
                            .code = Code::kBusy,
                            .message = "too many requests of this client wait; wait for answers "
                                       "before you send more, or raise --waiting-bytes"});
}

void Server::Handle(const Inbox::Item& received) {
  if (quiet_since_.has_value() && received.request.op() == Op::kSave) quiet_since_ = Now();
  const Inbox::Item* const outer = std::exchange(handled_, &received);
  try {
    if (meanwhile_) {
      host_->HandleMeanwhile(received.peer, received.request, Now());
    } else {
      host_->Handle(received.peer, received.request, Now());
    }
  } catch (const std::bad_alloc&) {
    OutOfMemory();
  }
  handled_ = outer;
}

void Server::AnswerMeanwhile() {
  if (meanwhile_) return;
  meanwhile_ = true;
  try {
    Drain(0);
    TellHealth();
  } catch (const std::bad_alloc&) {
    OutOfMemory();  // what this is called from goes on
  }
  meanwhile_ = false;
}

void Server::TellHealth() {
  if (metrics_ == nullptr) return;
  metrics_->Set(Metric::kDataBusy, host_->disk_busy_seconds());
  metrics_->SetHealth(host_->trouble());
}

void Server::CountUnsent() {
  unsent_.fetch_add(1);
  if (metrics_ != nullptr) metrics_->Count(Metric::kRepliesUnsent);
}

void Server::SendReply(const std::string& peer, const Reply& reply) {
  Message message;
  try {
    message = Encode(reply);
    if (!transport_->Send(peer, message)) CountUnsent();
  } catch (const std::bad_alloc&) {
    CountUnsent();  // it is asked for again
  }
  if (metrics_ == nullptr) return;
  metrics_->AddWireBytes(OpName(reply.op), Direction::kSent, BytesOf(message));
  // Not of a request for work that was waiting: that one waited for work, not for the server.
  if (handled_ != nullptr && handled_->request.id == reply.id && handled_->peer == peer) {
    metrics_->ObserveRequest(OpName(reply.op), Now() - handled_->at);
  }
}

}  // namespace mf
