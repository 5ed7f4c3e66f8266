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

namespace {

/// The reply body of the operation that stands at `index` in RequestBody.
template <size_t... i>
ReplyBody EmptyReply(size_t index, std::index_sequence<i...>) {
  ReplyBody body;
  ((index == i ? (void)body.emplace<i + 1>() : (void)0), ...);
  return body;
}

}  // namespace

Reply ReplyTo(const Request& request, uint64_t incarnation) {
  Reply reply{.id = request.id, .op = request.op(), .incarnation = incarnation};
  reply.body = EmptyReply(request.body.index(), std::make_index_sequence<kOpCount>());
  if (const auto* buckets = std::get_if<BucketsRequest>(&request.body)) {
    std::get<BucketsReply>(reply.body).step = buckets->tensor;
  }
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
