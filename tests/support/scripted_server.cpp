#include "tests/support/scripted_server.h"

#include <utility>

#include "common/base/check.h"

namespace mf {

std::unique_ptr<ServerTransport> Bind(TransportContext& context, const std::string& address) {
  auto server = BindZmq(context, address);
  MF_CHECK(server.ok());
  return std::move(server).value();
}

std::unique_ptr<ClientTransport> Connect(TransportContext& context,
                                         const std::vector<std::string>& addresses) {
  auto client = ConnectZmq(context, addresses);
  MF_CHECK(client.ok());
  return std::move(client).value();
}

Reply ReplyTo(const Request& request, uint64_t incarnation) {
  Reply reply;
  reply.id = request.id;
  reply.session = request.session;
  reply.incarnation = incarnation;
  reply.step = request.step;
  return reply;
}

ScriptedServer::ScriptedServer(TransportContext& context, const std::string& address, Script script)
    : transport_(Bind(context, address)), thread_([this, script = std::move(script)] {
        std::string peer;
        Message message;
        while (!stopping_.load()) {
          if (!transport_->Receive(100, &peer, &message)) continue;
          Result<Request> request = DecodeRequest(message);
          if (request.ok()) script(*transport_, peer, *request);
        }
      }) {}

ScriptedServer::~ScriptedServer() {
  stopping_.store(true);
  transport_->Wake();
  thread_.join();
}

}  // namespace mf
