#include "pserver/server.h"

#include <chrono>

namespace mf {
namespace {

constexpr int kTickMs = 50;         // how late a lease's end may be noticed
constexpr size_t kInboxMax = 1024;  // requests taken in ahead; the rest waits in the socket

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Server::Server(std::unique_ptr<ServerTransport> transport, const Shard::Options& options,
               int threads)
    : transport_(std::move(transport)),
      pool_(threads),
      shard_(options, pool_,
             [this](const std::string& peer, const Reply& reply) {
               if (!transport_->Send(peer, Encode(reply))) unsent_.fetch_add(1);
             }),
      thread_([this] { Run(); }) {}

Server::~Server() {
  stopping_.store(true);
  transport_->Wake();
  thread_.join();
}

void Server::Run() {
  double last_tick = Now();
  while (!stopping_.load()) {
    Drain();
    if (!inbox_.empty()) {
      const auto [peer, request] = std::move(inbox_.front());
      inbox_.pop_front();
      shard_.Handle(peer, request, Now());
    }
    if (const double now = Now(); now - last_tick >= kTickMs / 1000.0) {
      Drain();
      shard_.Tick(now);
      last_tick = now;
    }
  }
}

/// Takes in what has arrived, waiting a moment if there is nothing to do. Renewals of leases are
/// handled at once: those that came while a long request was worked on must not find their lease
/// expired.
void Server::Drain() {
  std::string peer;
  Message message;
  while (inbox_.size() < kInboxMax &&
         transport_->Receive(inbox_.empty() ? kTickMs : 0, &peer, &message)) {
    Result<Request> request = DecodeRequest(message);
    if (!request.ok()) {
      malformed_.fetch_add(1);  // nobody to answer: the id is not known
    } else if (request->op == Op::kRenew) {
      shard_.Handle(peer, *request, Now());
    } else {
      inbox_.emplace_back(peer, std::move(request).value());
    }
  }
}

}  // namespace mf
