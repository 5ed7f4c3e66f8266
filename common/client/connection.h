// A client of some servers and what it stands on, for a program that makes its own.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/client/client.h"
#include "common/net/transport.h"

namespace mf {

struct Connection {
  TransportContext context;
  std::unique_ptr<Client> client;
};

/// Connects lazily: a server may come later. `keys`: folder with client.key and server.pub; empty:
/// no encryption. kInvalid for an address that is none, or keys that are none.
Result<std::unique_ptr<Connection>> Connect(const std::vector<std::string>& addresses,
                                            const std::string& keys, double deadline_seconds);

}  // namespace mf
