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
  /// The epoch of a run's states: of the run's id, so that nobody who reads one run is answered
  /// from another in its place. (What a run's recoveries are to those that train it is nothing
  /// here: its steps are the same in every epoch.)
  static uint64_t EpochOf(const std::string& run_id);

  ReadOnlyHost(const Options& options, Shard::Send send);

  void Handle(const std::string& peer, const Request& request, double now) override;
  void HandleMeanwhile(const std::string& peer, const Request& request, double now) override {
    Handle(peer, request, now);
  }
  void Tick(double) override {}
  void End(double) override { ending_ = true; }
  bool ending() const override { return ending_; }
  std::string trouble() const override { return options_.snapshots->trouble(); }

 private:
  Status Answer(const Request& request, Reply* reply) const;
  /// `answer` of the state that a request names, with a reply's body of the request's kind.
  template <class Body, class Form>
  Status Read(const Body& body, const Frames& payload,
              Result<Frames> (*answer)(const Body&, const Frames&, const RunDescription&,
                                       ShardTables&),
              Form form, Reply* reply) const;
  RunState State() const;
  FinishedStep StateOf(const ServedState& state) const { return {epoch_, state.step()}; }
  /// kStale if the state is not served any more; kInvalid of a read that belongs to training.
  Result<SnapshotFollower::State> Find(const ReadState& at) const;

  const Options options_;
  const Shard::Send send_;
  // Of all states, which are of one run.
  const std::string description_;
  const uint64_t epoch_;
  bool ending_ = false;
};

}  // namespace mf
