// The work coordinator's messages on server 0: who asked what, waiting, answered and answered
// again. The coordinator itself (pserver/coordinator/coordinator.h) knows tickets only.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/metrics/metrics.h"
#include "common/net/messages.h"
#include "common/run/run_description.h"
#include "pserver/coordinator/coordinator.h"
#include "pserver/coordinator/lease_request_cache.h"

namespace mf {

class CoordinatorService {
 public:
  using Send = std::function<void(const std::string& peer, Reply reply)>;

  /// `metrics` outlives it; nullptr: nothing is told.
  CoordinatorService(const RunRules& rules, uint64_t boot_count, Metrics* metrics, Send send);

  /// A worker's session is new; `again`: it was there before this server was started. Those are
  /// ended, too, by a Stop() that came before them.
  void Joined(uint64_t session, bool again, double now);
  /// A worker asks for work: answered by the desk, now or later, unless this returns an error.
  Status Lease(const std::string& peer, const Request& request, const LeaseRequest& ask,
               double now);
  /// What a worker reports, in any other operation of the coordinator. The caller answers.
  template <class Body>
  Status Report(uint64_t session, const Body& body, double now) {
    Heard(session, now);
    Coordinator::Grants grants;
    const Status status = Take(body, now, &grants);
    SendGrants(grants);
    Observe(now);
    return status;
  }
  /// The worker ends.
  LeaveReply Leave(uint64_t session, double now);
  /// Ends all workers that have joined; a run that is over has none.
  StopReply Stop(double now);
  void Tick(double now);

  const Coordinator& coordinator() const { return coordinator_; }
  /// See Coordinator::Restore.
  void Restore(uint64_t step, const std::vector<StepRecord>& records) {
    coordinator_.Restore(step, records);
  }

 private:
  Status Take(const RenewRequest& renew, double now, Coordinator::Grants*) {
    return coordinator_.Renew(renew.lease, now);
  }
  Status Take(const GiveBackRequest& give_back, double now, Coordinator::Grants* grants) {
    *grants = coordinator_.GiveBack(give_back.lease, now);
    return Status::Ok();
  }
  Status Take(const MicroBatchDoneRequest& done, double now, Coordinator::Grants* grants) {
    return coordinator_.MicroBatchDone(done, now, grants);
  }
  Status Take(const StepEndedRequest& ended, double now, Coordinator::Grants* grants) {
    return coordinator_.StepEnded(ended, now, grants);
  }
  Status Take(const EvaluatedRequest& evaluated, double now, Coordinator::Grants* grants) {
    return coordinator_.Evaluated(evaluated, now, grants);
  }
  Status Take(const RecoveredRequest& recovered, double now, Coordinator::Grants* grants) {
    return coordinator_.Recovered(recovered, now, grants);
  }
  void Heard(uint64_t session, double now) {
    if (!left_.contains(session)) heard_[session] = now;  // not by what was on its way
  }
  void SendGrants(const Coordinator::Grants& grants);
  /// Tells the metrics what has changed on the coordinator.
  void Observe(double now);

  Coordinator coordinator_;
  LeaseRequestCache asks_;
  Metrics* const metrics_;
  const Send send_;
  const double live_seconds_;         // a worker that says nothing for so long does not count
  std::map<uint64_t, double> heard_;  // by session: when last
  std::set<uint64_t> joined_, left_;  // sessions
  bool stopped_ = false;              // by Stop(), and no new worker has come since
  const char* phase_;                 // as last observed, with its step
  uint64_t phase_step_ = 0;
  double phase_since_ = -1;  // -1: not observed yet
  uint64_t expired_ = 0;
};

}  // namespace mf
