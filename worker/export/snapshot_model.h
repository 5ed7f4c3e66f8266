// The state of a run as its snapshots hold it, offline: servers inside the process read the newest
// common step; nothing on disk is changed, and a cluster may run on the same folder meanwhile.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/client/client.h"
#include "common/client/table_client.h"
#include "common/net/transport.h"
#include "worker/config/tensors.h"
#include "worker/embedded/embedded.h"
#include "worker/model/model.h"

namespace mf {

class SnapshotModel {
 public:
  /// `dir`: a --data folder with the snapshots of all servers. kInvalid, naming what is missing, if
  /// they have no common step or are of no language model; kFailed, naming the file, if the newest
  /// one is damaged.
  static Result<std::unique_ptr<SnapshotModel>> Open(const std::string& dir, int threads);

  const Config& config() const { return config_; }
  const std::vector<TensorSpec>& tensors() const { return run_.tensors; }
  TableClient& tables() { return *tables_; }
  /// The state: to read from.
  FinishedStep at() const { return at_; }
  /// The dense tensors, whole.
  Result<DenseTensors> Dense();

 private:
  SnapshotModel() = default;
  Status GoTo(uint64_t step);

  RunDescription run_;
  Config config_;
  TransportContext context_;
  std::unique_ptr<EmbeddedServers> servers_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<TableClient> tables_;
  FinishedStep at_;
};

}  // namespace mf
