// Parameter servers inside the worker's own process, over inproc (the default of `worker train`).
// The only file of worker/ that knows pserver/.
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
    Metrics* metrics = nullptr;  // outlives the servers; told by the first of them for all
  };
  static Result<std::unique_ptr<EmbeddedServers>> Start(TransportContext& context,
                                                        const Options& options);
  ~EmbeddedServers();

  struct SnapshotsFound {
    uint64_t step = 0;        // newest common
    std::string description;  // of the run
  };
  /// Servers that can be brought to `found->step` of the snapshots in `dir`, and change nothing
  /// there; as many as wrote them. kInvalid if there is no common step.
  static Result<std::unique_ptr<EmbeddedServers>> StartOnSnapshots(TransportContext& context,
                                                                   const std::string& dir,
                                                                   int threads,
                                                                   SnapshotsFound* found);

  const std::vector<std::string>& addresses() const { return addresses_; }

 private:
  struct Running;
  EmbeddedServers();
  static std::string NewAddress();
  std::unique_ptr<Running> running_;
  std::vector<std::string> addresses_;
};

}  // namespace mf
