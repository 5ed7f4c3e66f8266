#include "tests/support/tcp_servers.h"

#include "common/base/check.h"

namespace mf {

TcpServers::TcpServers(uint32_t shards) {
  for (uint32_t shard = 0; shard < shards; ++shard) {
    auto transport = BindZmq(context_, "tcp://127.0.0.1:0");
    MF_CHECK(transport.ok());
    Shard::Options options;
    options.shard = shard;
    options.shards = shards;
    options.incarnation = 100 + shard;
    options.memory_bytes = 1 << 30;
    servers_.push_back(std::make_unique<Server>(std::move(transport).value(),
                                                RunHost::Options{.shard = options}, 1));
    addresses_.push_back(servers_.back()->address());
  }
}

uint64_t TcpServers::malformed() const {
  uint64_t all = 0;
  for (const auto& server : servers_) all += server->malformed();
  return all;
}

}  // namespace mf
