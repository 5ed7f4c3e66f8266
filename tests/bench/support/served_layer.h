// A memory layer of some shape on a server in the first step of a run, and a client of it: what the
// exchange costs, apart from a worker's own work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/thread_pool.h"
#include "common/client/client.h"
#include "common/client/table_client.h"
#include "tests/bench/support/layer.h"
#include "worker/config/tensors.h"

namespace mf {

/// Even random buckets of a batch as they go over the wire; pair-major.
struct WireBatch {
  size_t tokens = 0;
  Buffer indices, weights, dy;
};

class ServedLayer {
 public:
  /// The server at `address` must be fresh; encrypted with `keys`. `shape.tokens`: the most of a
  /// request. Ends the program where it fails.
  ServedLayer(TransportContext& context, const std::string& address, const LayerShape& shape,
              const ClientKeys* keys = nullptr);

  /// The first `tokens` of the layer's batch.
  WireBatch Batch(const BenchLayer& layer, size_t tokens) const;
  /// New ones: the first tokens of a longer batch are those of a shorter one.
  WireBatch RandomBatch(size_t tokens) const;

  /// Seconds a call, `in_flight` at a time.
  double Forward(const WireBatch& batch, int calls, size_t in_flight);
  double Backward(const WireBatch& batch, int calls, size_t in_flight);
  /// Seconds a micro-batch that goes forward, then backward, with `in_flight` of them on the way.
  double ForwardAndBackward(const WireBatch& batch, int micro_batches, size_t in_flight);
  /// Seconds from a request of one token to its answer, nothing else in flight: the median.
  double RoundTrip(const BenchLayer& layer, int calls);

  /// A micro-batch forward and backward as a worker does it, its share of the sums included.
  struct Exchanged {
    double seconds = 0;
    double bytes = 0;  // over the wire, both ways
  };
  Exchanged Exchange(const WireBatch& batch, ExchangeMode mode, ThreadPool& pool);
  /// What `exchange.mode = auto` takes for micro-batches of `tokens`.
  ExchangeMode Choice(size_t tokens) const;
  /// False where the rows that are pulled do not fit one reply.
  bool CanPull(const WireBatch& batch) const;

 private:
  uint64_t DistinctRows(const WireBatch& batch) const;
  double Timed(int calls, size_t in_flight, const std::function<Pending(int)>& start_call);
  double WireBytes() const;

  const LayerShape shape_;
  const Config config_;
  const RunDescription run_;
  const TensorSpec* tensor_ = nullptr;
  const OpenStep at_{uint64_t{1} << 32 | 1, 1};
  uint32_t micro_batch_ = 0;
  std::unique_ptr<Client> client_;
  std::unique_ptr<TableClient> tables_;
};

/// Returns after what the servers still do when their last answers have gone, such as to add the
/// gradients of a backward: a forward, as this is, waits for that. (A status goes before it.)
void AwaitIdle(TableClient& tables, const OpenStep& at, const TensorSpec& tensor);

/// Ends the program: a benchmark that cannot run has no other result.
void MustBeOk(const Status& status);
template <class T>
T Must(Result<T> result) {
  MustBeOk(result.status());
  return std::move(*result);
}

}  // namespace mf
