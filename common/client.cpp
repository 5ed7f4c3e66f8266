#include "common/client.h"

#include <algorithm>

namespace mf {
namespace {

constexpr int kTickMs = 200;  // how late a deadline may be noticed

uint64_t BytesOf(const Message& message) {
  uint64_t bytes = 0;
  for (const Frame& frame : message) bytes += frame.size();
  return bytes;
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
  CallAll(std::move(requests), [promise](Outcome outcome) { promise->set_value(std::move(outcome)); });
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
  call.deadline = call.start + std::chrono::duration_cast<Clock::duration>(
                                     std::chrono::duration<double>(options_.deadline_seconds));
  std::vector<Outgoing> outgoing;
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].id = id;
    requests[i].session = sessions_[first_server + i].load();
    outgoing.push_back({first_server + i, Encode(requests[i])});
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
  auto next_tick = Clock::now();
  while (!stopping_.load()) {
    SendQueued();
    size_t server = 0;
    Message message;
    if (transport_->Receive(kTickMs, &server, &message)) OnMessage(server, message);
    if (Clock::now() >= next_tick) {
      ExpireCalls();
      next_tick = Clock::now() + std::chrono::milliseconds(kTickMs);
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
    done.callback(Status(r.code, "server " + std::to_string(done.first_server + i) + ": " +
                                     OpName(done.op) + ": " + r.message));
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

void Client::ExpireCalls() {
  const auto now = Clock::now();
  std::vector<OpenCall> expired;
  {
    std::lock_guard lock(mutex_);
    for (auto it = calls_.begin(); it != calls_.end();) {
      if (it->second.deadline > now) {
        ++it;
        continue;
      }
      expired.push_back(std::move(it->second));
      it = calls_.erase(it);
    }
  }
  for (OpenCall& call : expired) {
    std::string silent;
    for (size_t i = 0; i < call.answered.size(); ++i) {
      if (call.answered[i]) continue;
      const size_t server = call.first_server + i;
      silent += (silent.empty() ? "" : ", ") + std::to_string(server) + " (" + addresses_[server] + ")";
    }
    call.callback(Status::Failed("no answer to " + std::string(OpName(call.op)) + " within " +
                                 std::to_string(static_cast<int>(options_.deadline_seconds)) +
                                 " s from server " + silent));
  }
}

}  // namespace mf
