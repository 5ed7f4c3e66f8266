// Joining a run from tests and benchmarks that drive servers by hand, without a session.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/client/client.h"
#include "common/client/membership.h"

namespace mf {

/// Says hello to all servers and keeps their sessions in the client. Returns the servers'
/// incarnations.
inline Result<std::vector<uint64_t>> SayHello(Client& client, const std::string& description) {
  const Membership membership(description, client.servers());
  const Client::Outcome replies = client.CallAll(membership.Hellos()).get();
  if (!replies.ok()) return replies.status();
  std::vector<uint64_t> incarnations;
  for (size_t server = 0; server < replies.value().size(); ++server) {
    const Reply& reply = replies.value()[server];
    client.SetSession(server, As<HelloReply>(reply).session);
    incarnations.push_back(reply.incarnation);
  }
  return incarnations;
}

/// Brings all servers to the state `to`.
inline Status RollBack(Client& client, FinishedStep to) {
  const Request rollback{.body = RollbackRequest{.to = to}};
  return client.CallAll(std::vector<Request>(client.servers(), rollback)).get().status();
}

}  // namespace mf
