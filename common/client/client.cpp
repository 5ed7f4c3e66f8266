#include "common/client/client.h"

#include <algorithm>
#include <utility>

#include "common/base/logging.h"

namespace mf {
namespace {

constexpr int kTickMsMax = 5;             // how late a deadline, a repeat or what nobody waits for
                                          // may be noticed
constexpr int kTakenMax = 256;            // messages taken in before others get the mutex
constexpr double kRepeatSecondsMax = 10;  // the back-off ends there
constexpr double kLongDeadlines = 10;     // for who waits for a server to be started again
constexpr double kAskSeconds = 1;         // after which who is waited for is asked how it is
constexpr double kBusyResendSeconds = 0.05;  // for a server that had no room
constexpr double kSaySecondsBetween = 5;     // between lines about a call that waits

/// What workers that wait for a recovery have asked, or ask of all servers for it.
bool WaitsForRecovery(Op op) {
  return op == Op::kRollback || op == Op::kLease || op == Op::kStatus || op == Op::kGiveBack ||
         op == Op::kRecovered;
}

std::chrono::steady_clock::duration Seconds(double seconds) {
  return std::chrono::duration_cast<std::chrono::steady_clock::duration>(
      std::chrono::duration<double>(seconds));
}

/// A quarter of the first repeat's wait, where that is short.
int TickMs(double resend_seconds) {
  return static_cast<int>(std::clamp(resend_seconds * 1000 / 4, 1.0, double{kTickMsMax}));
}

}  // namespace

Client::Client(std::unique_ptr<ClientTransport> transport, std::vector<std::string> addresses,
               Options options)
    : transport_(std::move(transport)),
      addresses_(std::move(addresses)),
      options_(options),
      sessions_(addresses_.size()),
      lives_(addresses_.size()),
      thread_([this] { WatchTime(); }) {}

Client::~Client() {
  {
    MutexLock lock(*mutex_);
    closing_ = true;
    for (auto& [id, call] : calls_) Complete(*call, Status::Failed("the client was closed"));
    calls_.clear();
    closes_.NotifyOne();
    while (awaiting_ != 0) nobody_awaits_.Wait(*mutex_);
  }
  thread_.join();
}

void Answer::wait() const {
  MF_CHECK(call_ != nullptr);
  MutexLock lock(*call_->mutex);
  if (call_->outcome.has_value()) return;
  client_->mutex_->AssertHeld();  // it is the call's
  client_->Await(*call_);
}

Client::Outcome Answer::get() {
  wait();
  return std::move(*std::exchange(call_, nullptr)->outcome);
}

void Client::SetSession(size_t server, uint64_t session) { sessions_[server].store(session); }

Client::Answer Client::CallAll(std::vector<Request> requests) {
  MF_CHECK(requests.size() == servers());
  return Start(std::move(requests), 0);
}

Client::Answer Client::Call(size_t server, Request request) {
  std::vector<Request> one;
  one.push_back(std::move(request));
  return Start(std::move(one), server);
}

Client::Answer Client::Start(std::vector<Request> requests, size_t first_server) {
  const uint64_t id = next_id_.fetch_add(1);
  traffic_[static_cast<size_t>(requests[0].op())].calls.fetch_add(1, std::memory_order_relaxed);
  auto call = std::make_shared<OpenCall>();
  call->mutex = mutex_;
  call->op = requests[0].op();
  call->waiting = requests.size();
  call->first_server = first_server;
  call->replies.resize(requests.size());
  call->answered.resize(requests.size());
  call->start = Clock::now();
  call->patience =
      Seconds(options_.deadline_seconds * (WaitsForRecovery(call->op) ? kLongDeadlines : 1));
  call->deadline = call->start + Seconds(deadline_limit_.load());
  call->resend_seconds = options_.resend_seconds;
  call->resend = call->start + Seconds(call->resend_seconds);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].id = id;
    requests[i].session = sessions_[first_server + i].load();
    call->messages.push_back(Encode(requests[i]));
    CountBytes(call->op, Direction::kSent, BytesOf(call->messages.back()));
  }
  {
    MutexLock lock(*mutex_);
    calls_.emplace(id, call);
    for (size_t i = 0; i < requests.size(); ++i) Send(first_server + i, call->messages[i]);
    ReceiveForLeader();
  }
  return Answer(this, std::move(call));
}

void Client::LimitDeadlines(double seconds) {
  deadline_limit_.store(seconds);
  MutexLock lock(*mutex_);
  const auto latest = Clock::now() + Seconds(seconds);
  for (const auto& [id, call] : calls_) call->deadline = std::min(call->deadline, latest);
}

void Client::Send(size_t server, const Message& message) { transport_->Send(server, message); }

void Client::ReceiveForLeader() {
  if (leader_waits_ && !ReceiveAvailable(nullptr)) transport_->Wake();  // the rest is the leader's
}

void Client::Await(OpenCall& own) {
  ++awaiting_;
  while (!own.outcome.has_value()) {
    if (leader_ == nullptr) {
      Lead(own);
      continue;
    }
    followers_.push_back(&own);
    while (!own.outcome.has_value() && leader_ != nullptr) own.changed.Wait(*mutex_);
    std::erase(followers_, &own);
  }
  if (leader_ == nullptr) {
    const auto next = std::find_if(followers_.begin(), followers_.end(),
                                   [](const OpenCall* call) { return !call->outcome.has_value(); });
    if (next != followers_.end()) (*next)->changed.NotifyOne();
  }
  if (--awaiting_ == 0) nobody_awaits_.NotifyOne();
}

void Client::Lead(OpenCall& own) {
  leader_ = &own;
  while (!own.outcome.has_value()) {
    const bool none_left = ReceiveAvailable(&own);
    if (own.outcome.has_value()) break;
    leader_waits_ = true;
    mutex_->Unlock();
    transport_->Wait(none_left ? -1 : 0);
    mutex_->Lock();
    leader_waits_ = false;
  }
  leader_ = nullptr;
}

bool Client::ReceiveAvailable(const OpenCall* own) {
  size_t server = 0;
  Message message;
  for (int taken = 0; taken < kTakenMax; ++taken) {
    if (own != nullptr && own->outcome.has_value()) return false;
    if (!transport_->Receive(&server, &message)) return true;
    OnMessage(server, message);
  }
  return false;
}

void Client::Complete(OpenCall& call, Outcome outcome) {
  call.outcome.emplace(std::move(outcome));
  if (&call != leader_) {
    call.changed.NotifyOne();
  } else if (leader_waits_) {
    transport_->Wake();
  }
}

void Client::WatchTime() {
  const std::chrono::milliseconds tick(TickMs(options_.resend_seconds));
  MutexLock lock(*mutex_);
  while (!closing_) {
    if (closes_.WaitFor(*mutex_, tick)) continue;
    if (leader_ == nullptr) ReceiveAvailable(nullptr);
    CheckCalls();
    ReceiveForLeader();  // in any case: then news that were lost, by whatever mistake, are only
                         // late
  }
}

void Client::OnMessage(size_t server, const Message& message) {
  Result<Reply> reply = DecodeReply(message);
  if (!reply.ok()) return;
  lives_[server].heard = Clock::now();
  if (const auto* status = std::get_if<StatusReply>(&reply->body); status != nullptr) {
    lives_[server].doing = status->state.doing;
  }
  const auto found = calls_.find(reply->id);
  if (found == calls_.end()) return;  // answered already: a duplicate
  OpenCall& call = *found->second;
  const size_t slot = server - call.first_server;
  if (slot >= call.answered.size() || call.answered[slot]) return;
  CountBytes(call.op, Direction::kReceived, BytesOf(message));
  if (reply->code == Code::kBusy) {
    SayBusy(server, reply->message);
    call.resend = std::min(call.resend, Clock::now() + Seconds(kBusyResendSeconds));
    return;
  }
  call.answered[slot] = true;
  call.replies[slot] = std::move(reply).value();
  call.messages[slot].clear();
  if (--call.waiting > 0) return;
  const std::shared_ptr<OpenCall> done = calls_.extract(found).mapped();
  if (options_.metrics != nullptr) {
    options_.metrics->ObserveRequest(
        OpName(call.op), std::chrono::duration<double>(Clock::now() - call.start).count());
  }
  for (size_t i = 0; i < call.replies.size(); ++i) {
    const Reply& r = call.replies[i];
    if (r.code == Code::kOk && Answers(r, call.op)) continue;
    const size_t from = call.first_server + i;
    const std::string where =
        "server " + std::to_string(from) + " (" + addresses_[from] + "): " + OpName(call.op) + ": ";
    return Complete(call, r.code == Code::kOk
                              ? Status::Failed(where + "answered as if asked something else")
                              : Status(r.code, where + r.message));
  }
  Complete(call, std::move(call.replies));
}

void Client::SayBusy(size_t server, const std::string& message) {
  const auto now = Clock::now();
  if (now - said_busy_ < Seconds(kSaySecondsBetween)) return;
  said_busy_ = now;
  spdlog::warn("server {} ({}) has no room for a request, which is sent again: {}", server,
               addresses_[server], message);
}

void Client::CountBytes(Op op, Direction direction, uint64_t bytes) {
  Traffic& traffic = traffic_[static_cast<size_t>(op)];
  (direction == Direction::kSent ? traffic.sent_bytes : traffic.received_bytes)
      .fetch_add(bytes, std::memory_order_relaxed);
  if (options_.metrics != nullptr) options_.metrics->AddWireBytes(OpName(op), direction, bytes);
}

std::string Client::UnansweredServers(const OpenCall& call) const {
  std::string silent;
  for (size_t i = 0; i < call.answered.size(); ++i) {
    if (call.answered[i]) continue;
    const size_t server = call.first_server + i;
    silent += (silent.empty() ? "" : ", ") + std::to_string(server) + " (" + addresses_[server] +
              (lives_[server].doing.empty() ? "" : "; " + lives_[server].doing) + ")";
  }
  return silent;
}

void Client::SendAgain(OpenCall& call, size_t i) {
  if (call.answered[i]) return;
  Send(call.first_server + i, call.messages[i]);
  resends_.fetch_add(1);
}

void Client::RepeatAfterReconnects() {
  connections_.resize(servers());
  for (size_t server = 0; server < servers(); ++server) {
    const uint64_t before = std::exchange(connections_[server], transport_->Connections(server));
    if (before == 0 || before == connections_[server]) continue;
    for (const auto& [id, call] : calls_) {
      if (server >= call->first_server && server - call->first_server < call->messages.size()) {
        SendAgain(*call, server - call->first_server);
      }
    }
  }
}

void Client::Repeat(OpenCall& call, Clock::time_point now) {
  for (size_t i = 0; i < call.messages.size(); ++i) {
    SendAgain(call, i);
  }
  // Jitter, so that the workers of a server that was slow do not come back together.
  std::uniform_real_distribution<double> jitter(0.75, 1.25);
  call.resend_seconds = std::min(kRepeatSecondsMax, 2 * call.resend_seconds);
  call.resend = now + Seconds(call.resend_seconds * jitter(random_));
}

Status Client::CheckDeadline(const OpenCall& call, Clock::time_point now) const {
  auto since = now;  // all that have not answered have been heard
  if (call.deadline <= now) since = call.start;
  for (size_t i = 0; i < call.answered.size(); ++i) {
    if (call.answered[i]) continue;
    const auto heard = std::max(call.start, lives_[call.first_server + i].heard);
    if (now - heard >= call.patience) since = std::min(since, heard);
  }
  if (since == now) return Status::Ok();
  const double seconds = std::chrono::duration<double>(now - since).count();
  return Status::Failed(fmt::format("no answer to {} within {:.{}f} s from server {}",
                                    OpName(call.op), seconds, seconds < 10 ? 2 : 0,
                                    UnansweredServers(call)));
}

void Client::AskHowTheyAre(const OpenCall& call, Clock::time_point now) {
  const auto patience = std::min<Clock::duration>(Seconds(kAskSeconds), call.patience / 4);
  for (size_t i = 0; i < call.answered.size(); ++i) {
    const size_t server = call.first_server + i;
    Life& life = lives_[server];
    // Not only of the silent: other answers do not say what it is at.
    if (call.answered[i] || now - std::max(call.start, life.asked) < patience) continue;
    life.asked = now;
    const Request ask{.id = next_id_.fetch_add(1), .session = sessions_[server].load()};
    Send(server, Encode(ask));  // the answer belongs to no call: OnMessage() takes note of it
  }
}

void Client::CheckCalls() {
  RepeatAfterReconnects();
  const auto now = Clock::now();
  const OpenCall* oldest = nullptr;
  for (auto it = calls_.begin(); it != calls_.end();) {
    OpenCall& call = *it->second;
    if (Status failed = CheckDeadline(call, now); !failed.ok()) {
      Complete(call, std::move(failed));
      it = calls_.erase(it);
      continue;
    }
    AskHowTheyAre(call, now);
    if (call.resend <= now) Repeat(call, now);
    if (oldest == nullptr || call.start < oldest->start) oldest = &call;
    ++it;
  }
  if (oldest != nullptr &&
      now - std::max(oldest->start, last_said_) > Seconds(kSaySecondsBetween)) {
    last_said_ = now;
    spdlog::warn("waiting since {:.0f} s for {} to answer {}",
                 std::chrono::duration<double>(now - oldest->start).count(),
                 "server " + UnansweredServers(*oldest), OpName(oldest->op));
  }
}

}  // namespace mf
