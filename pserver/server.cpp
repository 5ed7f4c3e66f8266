#include "pserver/server.h"

#include <chrono>

namespace mf {
namespace {

constexpr int kTickMs = 50;  // how late a lease's end may be noticed

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Server::Server(std::unique_ptr<ServerTransport> transport, const Shard::Options& options, int threads)
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
    std::string peer;
    Message message;
    if (transport_->Receive(kTickMs, &peer, &message)) {
      Result<Request> request = DecodeRequest(message);
      if (request.ok()) {
        shard_.Handle(peer, *request, Now());
      } else {
        malformed_.fetch_add(1);  // nobody to answer: the id is not known
      }
    }
    if (const double now = Now(); now - last_tick >= kTickMs / 1000.0) {
      shard_.Tick(now);
      last_tick = now;
    }
  }
}

}  // namespace mf
