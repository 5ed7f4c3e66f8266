#include "common/client.h"

#include <algorithm>

#include "common/logging.h"

namespace mf {
namespace {

constexpr int kTickMsMax = 20;             // how late a deadline or a repeat may be noticed
constexpr double kRepeatSecondsMax = 10;   // the back-off ends there
constexpr double kRollbackDeadlines = 10;  // building tables takes its time
constexpr double kSaySecondsBetween = 5;   // between lines about a call that waits

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
      thread_([this] { Run(); }) {}

Client::~Client() {
  stopping_.store(true);
  transport_->Wake();
  thread_.join();
}

void Client::SetSession(size_t server, uint64_t session) { sessions_[server].store(session); }

void Client::CallAll(std::vector<Request> requests, Callback callback) {
  MF_CHECK(requests.size() == servers());
  Start(std::move(requests), 0, std::move(callback));
}

std::future<Client::Outcome> Client::CallAll(std::vector<Request> requests) {
  auto promise = std::make_shared<std::promise<Outcome>>();
  auto future = promise->get_future();
  CallAll(std::move(requests),
          [promise](Outcome outcome) { promise->set_value(std::move(outcome)); });
  return future;
}

std::future<Client::Outcome> Client::Call(size_t server, Request request) {
  auto promise = std::make_shared<std::promise<Outcome>>();
  auto future = promise->get_future();
  std::vector<Request> one;
  one.push_back(std::move(request));
  Start(std::move(one), server,
        [promise](Outcome outcome) { promise->set_value(std::move(outcome)); });
  return future;
}

void Client::Start(std::vector<Request> requests, size_t first_server, Callback callback) {
  const uint64_t id = next_id_.fetch_add(1);
  traffic_[static_cast<size_t>(requests[0].op)].calls.fetch_add(1, std::memory_order_relaxed);
  OpenCall call;
  call.op = requests[0].op;
  call.waiting = requests.size();
  call.first_server = first_server;
  call.replies.resize(requests.size());
  call.answered.resize(requests.size());
  call.callback = std::move(callback);
  call.start = Clock::now();
  call.deadline = call.start + Seconds(options_.deadline_seconds *
                                       (call.op == Op::kRollback ? kRollbackDeadlines : 1));
  call.resend_seconds = options_.resend_seconds;
  call.resend = call.start + Seconds(call.resend_seconds);
  std::vector<Outgoing> outgoing;
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].id = id;
    requests[i].session = sessions_[first_server + i].load();
    outgoing.push_back({first_server + i, Encode(requests[i])});
    call.messages.push_back(outgoing.back().message);
    CountBytes(call.op, Direction::kSent, BytesOf(outgoing.back().message));
  }
  {
    std::lock_guard lock(mutex_);
    calls_.emplace(id, std::move(call));
    std::move(outgoing.begin(), outgoing.end(), std::back_inserter(queue_));
  }
  transport_->Wake();
}

void Client::Run() {
  const int tick_ms = TickMs(options_.resend_seconds);
  auto next_tick = Clock::now();
  while (!stopping_.load()) {
    SendQueued();
    size_t server = 0;
    Message message;
    if (transport_->Receive(tick_ms, &server, &message)) OnMessage(server, message);
    if (Clock::now() >= next_tick) {
      CheckCalls();
      next_tick = Clock::now() + std::chrono::milliseconds(tick_ms);
    }
  }
  std::unique_lock lock(mutex_);
  while (!calls_.empty()) {
    auto node = calls_.extract(calls_.begin());
    lock.unlock();
    node.mapped().callback(Status::Failed("the client was closed"));
    lock.lock();
  }
}

void Client::SendQueued() {
  std::vector<Outgoing> outgoing;
  {
    std::lock_guard lock(mutex_);
    outgoing.swap(queue_);
  }
  // A message that can not be sent now is not answered either: the call's deadline reports it.
  for (const Outgoing& out : outgoing) transport_->Send(out.server, out.message);
}

void Client::OnMessage(size_t server, const Message& message) {
  Result<Reply> reply = DecodeReply(message);
  if (!reply.ok()) return;
  std::unique_lock lock(mutex_);
  const auto call = calls_.find(reply->id);
  if (call == calls_.end()) return;  // answered already: a duplicate
  const size_t slot = server - call->second.first_server;
  if (slot >= call->second.answered.size() || call->second.answered[slot]) return;
  CountBytes(call->second.op, Direction::kReceived, BytesOf(message));
  call->second.answered[slot] = true;
  call->second.replies[slot] = std::move(reply).value();
  call->second.messages[slot].clear();
  if (--call->second.waiting > 0) return;
  auto node = calls_.extract(call);
  lock.unlock();
  OpenCall& done = node.mapped();
  if (options_.metrics != nullptr) {
    options_.metrics->ObserveRequest(
        OpName(done.op), std::chrono::duration<double>(Clock::now() - done.start).count());
  }
  for (size_t i = 0; i < done.replies.size(); ++i) {
    const Reply& r = done.replies[i];
    if (r.code == Code::kOk) continue;
    const size_t from = done.first_server + i;
    done.callback(Status(r.code, "server " + std::to_string(from) + " (" + addresses_[from] +
                                     "): " + OpName(done.op) + ": " + r.message));
    return;
  }
  done.callback(std::move(done.replies));
}

void Client::CountBytes(Op op, Direction direction, uint64_t bytes) {
  Traffic& traffic = traffic_[static_cast<size_t>(op)];
  (direction == Direction::kSent ? traffic.sent_bytes : traffic.received_bytes)
      .fetch_add(bytes, std::memory_order_relaxed);
  if (options_.metrics != nullptr) options_.metrics->AddWireBytes(OpName(op), direction, bytes);
}

std::string Client::SilentServers(const OpenCall& call) const {
  std::string silent;
  for (size_t i = 0; i < call.answered.size(); ++i) {
    if (call.answered[i]) continue;
    const size_t server = call.first_server + i;
    silent +=
        (silent.empty() ? "" : ", ") + std::to_string(server) + " (" + addresses_[server] + ")";
  }
  return silent;
}

void Client::Repeat(OpenCall& call, Clock::time_point now) {
  for (size_t i = 0; i < call.messages.size(); ++i) {
    if (call.answered[i]) continue;
    queue_.push_back({call.first_server + i, call.messages[i]});
    resends_.fetch_add(1);
  }
  // Jitter, so that the workers of a server that was slow do not come back together.
  std::uniform_real_distribution<double> jitter(0.75, 1.25);
  call.resend_seconds = std::min(kRepeatSecondsMax, 2 * call.resend_seconds);
  call.resend = now + Seconds(call.resend_seconds * jitter(random_));
}

void Client::CheckCalls() {
  const auto now = Clock::now();
  std::vector<OpenCall> expired;
  {
    std::lock_guard lock(mutex_);
    const OpenCall* oldest = nullptr;
    for (auto it = calls_.begin(); it != calls_.end();) {
      OpenCall& call = it->second;
      if (call.deadline <= now) {
        expired.push_back(std::move(call));
        it = calls_.erase(it);
        continue;
      }
      if (call.resend <= now) Repeat(call, now);
      if (oldest == nullptr || call.start < oldest->start) oldest = &call;
      ++it;
    }
    if (oldest != nullptr &&
        now - std::max(oldest->start, last_said_) > Seconds(kSaySecondsBetween)) {
      last_said_ = now;
      spdlog::warn("waiting since {:.0f} s for {} to answer {}",
                   std::chrono::duration<double>(now - oldest->start).count(),
                   "server " + SilentServers(*oldest), OpName(oldest->op));
    }
  }
  for (OpenCall& call : expired) {
    call.callback(Status::Failed(
        "no answer to " + std::string(OpName(call.op)) + " within " +
        std::to_string(static_cast<int>(std::chrono::duration<double>(now - call.start).count())) +
        " s from server " + SilentServers(call)));
  }
}

}  // namespace mf
