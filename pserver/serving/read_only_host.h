// Answers whoever reads a run's model from servers that serve its snapshots: pulls and sums, of the
// steps that are there. Nothing is trained here, and no session is kept.
#pragma once

#include <cstdint>
#include <string>

#include "common/metrics/metrics.h"
#include "pserver/serving/snapshot_follower.h"
#include "pserver/shard/host.h"
#include "pserver/shard/shard.h"

namespace mf {

class ReadOnlyHost final : public Host {
 public:
  struct Options {
    Shard::Options shard = {};                    // which one, its incarnation and metrics
    const SnapshotFollower* snapshots = nullptr;  // outlives the host
  };
  /// Of all states that are served: a run that goes on has an epoch of its own after every
  /// recovery, but its steps are the same.
  static constexpr uint64_t kEpoch = 1;

  ReadOnlyHost(const Options& options, Shard::Send send);

  void Handle(const std::string& peer, const Request& request, double now) override;
  void HandleMeanwhile(const std::string& peer, const Request& request, double now) override {
    Handle(peer, request, now);
  }
  void Tick(double) override {}
  void End(double) override { ending_ = true; }
  bool ending() const override { return ending_; }

 private:
  Status Answer(const Request& request, Reply* reply) const;
  RunState State() const;
  /// kStale if the state is not served any more; kInvalid of a read that belongs to training.
  Result<SnapshotFollower::State> Find(const ReadState& at) const;

  const Options options_;
  const Shard::Send send_;
  bool ending_ = false;
};

}  // namespace mf
