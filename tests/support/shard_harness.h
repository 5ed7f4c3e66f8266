// One server without a socket, driven by messages built by hand: what tests of the servers share.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/thread_pool.h"
#include "common/net/messages.h"
#include "pserver/shard/shard.h"
#include "worker/config/config.h"

namespace mf {

/// A model of one layer whose tensors have a few hundred rows of 16 to 96 columns; three
/// micro-batches of 16 tokens a step.
Config ShardConfig();

/// The bits of floats, so that tests compare what is stored and not what compares equal.
std::vector<uint32_t> Bits(const std::vector<float>& values);

/// A frame of the values.
template <class T>
Frame FrameOf(const std::vector<T>& values) {
  Buffer buffer(values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(buffer.data(), values.data(), buffer.size());
  return buffer;
}

class ShardHarness {
 public:
  struct Options {
    uint64_t memory_bytes = 1 << 30;
    int threads = 1;
    bool recover = true;  // hello and rollback are done
    SnapshotStore* store = nullptr;
    SnapshotWriter* writer = nullptr;
    SnapshotStore* initial = nullptr;
    DiskThread* disk = nullptr;
  };
  ShardHarness(const RunDescription& run, const Options& options);
  /// A server of the run that trains `config`.
  ShardHarness(const Config& config, const Options& options);
  explicit ShardHarness(const Config& config) : ShardHarness(config, Options()) {}

  /// The one reply to a request that is answered at once.
  Reply Send(Request request);
  /// Everything that was sent by the server so far, in order.
  const std::vector<std::pair<std::string, Reply>>& sent() const { return sent_; }
  Shard& shard() { return *shard_; }
  ThreadPool& pool() { return pool_; }
  const Metrics& metrics() const { return metrics_; }
  const std::vector<TensorSpec>& specs() const { return run_.tensors; }
  const TensorSpec& spec(const std::string& name) const;

  /// A request of this session.
  Request Make(RequestBody body, Frames payload = {}) const;
  /// The open step and the state before it, in this epoch.
  OpenStep open() const { return {epoch, shard_->commit().open().step}; }
  FinishedStep finished() const { return open().before(); }
  Request Hello() const;
  Request Rollback(uint64_t epoch, uint64_t step) const;
  /// The pairs of a memory tensor in micro-batch `micro_batch` of `data` (which stands for the
  /// step's data: two steps with the same number get the same).
  Request Forward(const TensorSpec& spec, uint64_t data, uint32_t micro_batch) const;
  Request Backward(const TensorSpec& spec, uint64_t data, uint32_t micro_batch) const;
  /// Rows of the embedding, all of other dense tensors.
  Request Push(const TensorSpec& spec, uint64_t data, uint32_t micro_batch) const;
  /// All rows; no trace is left.
  Request PullAll(const TensorSpec& spec) const;

  /// All contributions of one micro-batch; memory tensors are read first, as workers do.
  void MicroBatch(uint64_t data, uint32_t micro_batch);
  /// Contributions of all micro-batches, prepare, and the end. Returns how prepare was answered.
  Reply RunStep(uint64_t data, double lr, bool apply = true);
  Reply End(double lr, bool apply);
  /// All rows of all tensors after the last finished step.
  std::vector<uint32_t> State();

  uint64_t epoch = 1ull << 32 | 1;
  uint64_t session = 0;

 private:
  const RunDescription run_;
  ThreadPool pool_;
  Metrics metrics_;
  std::unique_ptr<Shard> shard_;
  std::vector<std::pair<std::string, Reply>> sent_;
  uint64_t next_id_ = 1;
};

}  // namespace mf
