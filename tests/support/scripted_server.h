// A server whose answers a test writes itself, and the ends of a transport that are there at once.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/net/messages.h"
#include "common/net/transport.h"

namespace mf {

std::unique_ptr<ServerTransport> Bind(TransportContext& context, const std::string& address);
std::unique_ptr<ClientTransport> Connect(TransportContext& context,
                                         const std::vector<std::string>& addresses);

/// The reply to a request that has nothing to say. A request for buckets says which it was: the
/// reply's step is the request's tensor, so that tests can tell answers apart.
Reply ReplyTo(const Request& request, uint64_t incarnation = 0);

/// Does with every request what the script says, on a thread of its own.
class ScriptedServer {
 public:
  using Script = std::function<void(ServerTransport&, const std::string& peer, const Request&)>;
  ScriptedServer(TransportContext& context, const std::string& address, Script script);
  ~ScriptedServer();
  const std::string& address() const { return transport_->address(); }

 private:
  const std::unique_ptr<ServerTransport> transport_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace mf
