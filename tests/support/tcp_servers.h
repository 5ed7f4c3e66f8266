// Real servers of the test's own process that listen on TCP ports of their own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/net/transport.h"
#include "pserver/shard/server.h"

namespace mf {

class TcpServers {
 public:
  explicit TcpServers(uint32_t shards);
  const std::vector<std::string>& addresses() const { return addresses_; }
  /// Messages that did not parse, at all servers.
  uint64_t malformed() const;

 private:
  TransportContext context_;
  std::vector<std::unique_ptr<Server>> servers_;
  std::vector<std::string> addresses_;
};

}  // namespace mf
