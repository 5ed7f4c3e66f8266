#include "common/client/connection.h"

#include <utility>

#include "common/net/keys.h"

namespace mf {

Result<std::unique_ptr<Connection>> Connect(const std::vector<std::string>& addresses,
                                            const std::string& keys, double deadline_seconds) {
  ClientKeys loaded;
  if (!keys.empty()) {
    MF_ASSIGN_OR_RETURN(loaded, LoadClientKeys(keys));
  }
  auto connection = std::make_unique<Connection>();
  MF_ASSIGN_OR_RETURN(auto transport,
                      ConnectZmq(connection->context, addresses, keys.empty() ? nullptr : &loaded));
  connection->client = std::make_unique<Client>(
      std::move(transport), addresses, Client::Options{.deadline_seconds = deadline_seconds});
  return connection;
}

}  // namespace mf
