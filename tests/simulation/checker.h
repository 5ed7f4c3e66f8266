// The invariants of DESIGN 2.6 and 2.7, looked at after everything that a server does.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "common/net/messages.h"
#include "pserver/shard/commit.h"
#include "tests/simulation/disk.h"
#include "tests/simulation/model.h"
#include "tests/simulation/tally.h"

namespace mf::simulation {

/// A server has said so; nothing has changed there, or it waits for a recovery.
bool IsOutOfMemory(const std::string& message);

/// The epoch and step that a request is about, for checks and traces; zeros if it is about none.
OpenStep StepOf(const Request& request);

class Checker {
 public:
  using Fail = std::function<void(const std::string& what)>;
  /// `disks`: every server's, dead or alive. All outlive it.
  Checker(const RunModel& model, std::vector<const Disk*> disks, Tally& tally, Fail fail)
      : model_(model), disks_(std::move(disks)), tally_(tally), fail_(std::move(fail)) {}

  /// Round the handling of one request by one server.
  void Before(size_t server, const Request& request, const CommitState& commit);
  void After(size_t server, const Request& request, const CommitState& commit,
             const std::vector<std::pair<std::string, Reply>>& replies);
  /// Grants may be made at any time.
  void AfterTick(const std::vector<std::pair<std::string, Reply>>& replies);
  /// Round the end of a snapshot's writing.
  void BeforePublish();
  void AfterPublish(size_t server);
  /// The newest step that every server could go back to.
  uint64_t NewestCommon() const;

 private:
  void CheckRollback(size_t server, FinishedStep to, const Reply& reply);
  void CheckEnd(size_t server, OpenStep at, bool applied);
  void CheckPrepare(size_t server, OpenStep at, const Reply& reply);
  void CheckGrant(const LeaseReply& lease);
  void CountDiscarded(size_t server);
  void CountRefusals(const Request& request, const Reply& reply);

  const RunModel& model_;
  const std::vector<const Disk*> disks_;
  Tally& tally_;
  const Fail fail_;
  // Before the request.
  uint64_t epoch_ = 0, finished_ = 0, common_ = 0;
  std::vector<uint64_t> published_;
  // What was seen so far.
  uint64_t newest_epoch_ = 0;  // leased
  bool recovering_ = false;
  std::map<uint64_t, uint64_t> common_at_lease_;                      // by epoch of recovery
  std::map<uint64_t, uint64_t> targets_;                              // of rollbacks, by epoch
  std::map<std::pair<uint64_t, uint64_t>, bool> ended_;               // (epoch, step): applied
  std::map<std::tuple<uint64_t, uint64_t, size_t>, Reply> prepared_;  // (epoch, step, server)
  std::map<uint64_t, uint64_t> evaluations_;         // epoch in which one was first leased, by step
  std::set<std::pair<size_t, uint64_t>> set_aside_;  // (server, step) found damaged
  uint64_t finished_epoch_ = 0;  // of which the coordinator has said that the run is finished
};

}  // namespace mf::simulation
