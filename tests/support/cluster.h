// Parameter servers in the test's own process with a client that has joined them: the real protocol
// and the real transport, but steps are driven by hand, without work coordinator and trainer.
// Failures abort the test program.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/base/thread_pool.h"
#include "common/client/client.h"
#include "common/client/table_client.h"
#include "worker/config/tensors.h"
#include "worker/embedded/embedded.h"
#include "worker/exchange/remote_exchange.h"
#include "worker/model/model.h"

namespace mf {

/// Bucket indices by tensor id, [pairs][tokens]; empty for dense tensors.
using SeenBuckets = std::vector<std::vector<uint32_t>>;

class Cluster {
 public:
  struct Options {
    int shards = 1;
    int server_threads = 1;
    int threads = 1;                     // of the worker's side
    uint64_t memory_bytes = 1ull << 32;  // tables above this are sparse
  };
  /// Servers at step 1 of `config`, which should have one micro-batch a step.
  Cluster(const Config& config, const Options& options);

  const Config& config() const { return config_; }
  const std::vector<TensorSpec>& tensors() const { return run_.tensors; }
  Client& client() { return *client_; }
  TableClient& tables() { return *tables_; }
  ThreadPool& pool() { return pool_; }
  ComputeGate& gate() { return gate_; }
  OpenStep open_step() const { return open_; }
  FinishedStep finished() const { return open_.before(); }

  /// All tensors, by id, as they are after the last finished step.
  DenseTensors Read();
  /// Spends a step to bring all tensors to `values`, up to rounding. REQUIRES: SGD, no weight
  /// decay.
  void Write(const DenseTensors& values);

  struct MicroBatch {
    double loss_sum = 0;
    DenseTensors gradients;  // of the dense tensors
    SeenBuckets buckets;
  };
  /// Forward and backward of the open step's only micro-batch, and all contributions.
  MicroBatch Train(const TokenBatch& batch, double loss_scale);
  /// Log-probabilities of the targets at the last finished step.
  std::vector<float> Score(const TokenBatch& batch);
  /// Prepares and applies the open step.
  void EndStep(double lr);

 private:
  void Join();

  const Config config_;
  const RunDescription run_;
  TransportContext context_;
  std::unique_ptr<EmbeddedServers> servers_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<TableClient> tables_;
  ThreadPool pool_;
  const Model model_;
  ComputeGate gate_;
  OpenStep open_;
};

}  // namespace mf
