// The Exchange of a training worker: memory layers on the servers, by pushdown or by pull, as each
// tensor's specification says. While it waits for the servers it gives the compute gate to another
// micro-batch, so that exchange and compute overlap.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "common/base/mutex.h"
#include "common/base/thread_pool.h"
#include "common/client/table_client.h"
#include "common/kernels/pairs.h"
#include "worker/exchange/exchange.h"

namespace mf {

/// Held by the micro-batch that computes; one at a time per worker.
using ComputeGate = Mutex;

class RemoteExchange final : public Exchange, public RowExchange {
 public:
  /// For one micro-batch of an open step, or reading a finished one. Whoever calls anything of it
  /// holds `gate`, which is given up while servers are waited for.
  /// Once `stopping`, if there is one, becomes true, forward and backward fail with kUnavailable.
  RemoteExchange(TableClient& tables, ThreadPool& pool, ComputeGate& gate, const ReadState& at,
                 uint32_t micro_batch, const std::atomic<bool>* stopping = nullptr)
      MF_REQUIRES(gate)
      : tables_(tables),
        pool_(pool),
        gate_(gate),
        at_(at),
        micro_batch_(micro_batch),
        stopping_(stopping) {}

  Status Forward(const TensorSpec& tensor, const Hashes& hashes, float* y) override;
  Status Backward(const TensorSpec& tensor, const Hashes& hashes, const Buffer& dy,
                  float* dweights) override;

  RowExchange* rows() override { return this; }
  FinishedStep state() const override;
  Status PullRows(const TensorSpec& tensor, const Frame& rows, float* values) override;
  void SendGradient(const TensorSpec& tensor, const Hashes& hashes, const Buffer& dy) override;
  void PushRows(const TensorSpec& tensor, const Frame& rows, const Frame& hits,
                const Frame& values) override;

  /// Waits for the contributions that are left in flight.
  Status Finish();

 private:
  /// The distinct rows that a micro-batch reads, and where each pair finds its row.
  struct Pulled {
    std::vector<RowGroups> groups;    // by table: the pairs that meet each row
    std::vector<size_t> table_begin;  // [tables + 1] into rows
    Buffer rows;                      // u64, global, rising
    Buffer hits;                      // u32 per row
    size_t stride = 0;
    Buffer values;        // f32 [rows][stride], padded with zeros
    Buffer buckets;       // u32 [pairs][tokens]
    Buffer row_pointers;  // const void* [pairs][tokens]
  };
  Status ForwardPull(const TensorSpec& tensor, const Hashes& hashes, float* y) MF_REQUIRES(gate_);
  Status BackwardPull(const TensorSpec& tensor, const Hashes& hashes, const Buffer& dy,
                      float* dweights);
  void FindDistinct(const TensorSpec& tensor, const Hashes& hashes, Pulled* pulled);
  void PointToRows(const TensorSpec& tensor, const Hashes& hashes, Pulled* pulled);
  Status CheckStopping() const;
  /// Gives up the gate until all have ended; the first failure.
  Status WaitOutside(std::span<Pending> pending) MF_REQUIRES(gate_);
  Status WaitOutside(Pending pending) MF_REQUIRES(gate_) { return WaitOutside({&pending, 1}); }

  TableClient& tables_;
  ThreadPool& pool_;
  ComputeGate& gate_;
  const ReadState at_;
  const uint32_t micro_batch_;
  const std::atomic<bool>* const stopping_;
  std::unordered_map<uint32_t, Pulled> pulled_;  // by tensor id, from Forward to Backward
  std::vector<Pending> pushes_;
};

}  // namespace mf
