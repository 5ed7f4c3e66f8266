// Parameter servers inside the worker's own process, over inproc (the default of `worker train`).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/metrics/metrics.h"
#include "common/net/transport.h"

namespace mf {

class EmbeddedServers {
 public:
  struct Options {
    int shards = 1;
    int threads = 1;             // kernel threads of each server
    uint64_t memory_bytes = 0;   // of all servers together
    std::string data = {};       // folder of their state, as of pserver's --data; empty: none
    bool no_lock = false;        // go on where `data` cannot be locked (file_lock.h)
    Metrics* metrics = nullptr;  // outlives the servers; told by the first of them for all
  };
  static Result<std::unique_ptr<EmbeddedServers>> Start(TransportContext& context,
                                                        const Options& options);
  ~EmbeddedServers();

  const std::vector<std::string>& addresses() const { return addresses_; }

 private:
  struct Running;
  EmbeddedServers();
  static std::string NewAddress();
  std::unique_ptr<Running> running_;
  std::vector<std::string> addresses_;
};

}  // namespace mf
