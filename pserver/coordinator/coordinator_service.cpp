#include "pserver/coordinator/coordinator_service.h"

#include <utility>
#include <variant>

namespace mf {

CoordinatorService::CoordinatorService(const RunRules& rules, uint64_t boot_count, Metrics* metrics,
                                       Send send)
    : coordinator_(rules, boot_count),
      metrics_(metrics),
      send_(std::move(send)),
      live_seconds_(rules.lease_seconds),
      phase_(coordinator_.phase()) {
  if (metrics_ == nullptr) return;
  metrics_->Count(Metric::kLeaseExpired, {}, 0);
  metrics_->Set(Metric::kWorkersLive, 0);
}

void CoordinatorService::Tick(double now) {
  std::erase_if(heard_, [&](const auto& entry) { return entry.second + live_seconds_ <= now; });
  SendGrants(coordinator_.Tick(now));
  Observe(now);
}

LeaveReply CoordinatorService::Leave(uint64_t session, double now) {
  left_.insert(session);
  heard_.erase(session);
  SendGrants(coordinator_.Leave(session, now));
  Observe(now);
  return {.workers = heard_.size(), .at = coordinator_.finished_step()};
}

void CoordinatorService::Joined(uint64_t session, bool again, double now) {
  joined_.insert(session);
  if (!again) stopped_ = false;
  if (stopped_) SendGrants(coordinator_.Stop({session}, now));
}

StopReply CoordinatorService::Stop(double now) {
  // Nobody computes any more. Who has ended did not say so, and who still asks is to hear how the
  // run has ended, as a worker exports what is finished only.
  if (coordinator_.over()) return {.workers = 0, .at = coordinator_.finished_step()};
  stopped_ = true;
  // Also those that have not been heard of for long: they may come back.
  SendGrants(coordinator_.Stop(joined_, now));
  Observe(now);
  return {.workers = heard_.size(), .at = coordinator_.finished_step()};
}

void CoordinatorService::Observe(double now) {
  if (metrics_ == nullptr) return;
  metrics_->Set(Metric::kWorkersLive, static_cast<double>(heard_.size()));
  metrics_->Count(Metric::kLeaseExpired, {},
                  static_cast<double>(coordinator_.leases_expired() - expired_));
  expired_ = coordinator_.leases_expired();
  if (phase_ == coordinator_.phase() && phase_step_ == coordinator_.step() && phase_since_ >= 0)
    return;
  if (phase_since_ >= 0) metrics_->Observe(Metric::kStepSeconds, now - phase_since_, {phase_});
  phase_ = coordinator_.phase();
  phase_step_ = coordinator_.step();
  phase_since_ = now;
}

Status CoordinatorService::Lease(const std::string& peer, const Request& request,
                                 const LeaseRequest& ask, double now) {
  Heard(request.session, now);
  if (LeaseRequestCache::Ask* known = asks_.Find(request.session, request.id); known != nullptr) {
    known->peer = peer;  // after a reconnect the old identity is nobody
    if (known->answer.has_value()) {
      Reply again = *known->answer;
      auto& lease = std::get<LeaseReply>(again.body);
      // Of another epoch they are told with the next work.
      if (lease.epoch == coordinator_.epoch())
        lease.records = coordinator_.RecordsAfter(known->known_step);
      send_(peer, std::move(again));
    }
    return Status::Ok();
  }
  const Coordinator::Incarnations compared = coordinator_.Compare(ask.incarnations);
  if (compared == Coordinator::Incarnations::kWorkerIsBehind) {
    return {Code::kNotJoined, "a server was restarted since; say hello again"};
  }
  if (compared == Coordinator::Incarnations::kNewServer)
    SendGrants(coordinator_.StartRecovery(now));
  // Records of before a rollback may come again, and are then the ones that count.
  const uint64_t known_step = ask.known_epoch == coordinator_.epoch() ? ask.known_step : 0;
  const uint64_t ticket = asks_.Add(request.session, request.id, peer);
  SendGrants(coordinator_.Ask(ticket, request.session, known_step, now));
  Observe(now);
  return Status::Ok();
}

void CoordinatorService::SendGrants(const Coordinator::Grants& grants) {
  for (const Grant& grant : grants) {
    LeaseReply lease = grant;
    std::vector<StepRecord> records = std::exchange(lease.records, {});
    Reply reply{.id = asks_.RequestId(grant.ticket), .op = Op::kLease, .body = std::move(lease)};
    const LeaseRequestCache::Ask& ask = asks_.Answer(grant.ticket, reply, grant.known_step);
    std::get<LeaseReply>(reply.body).records = std::move(records);
    send_(ask.peer, std::move(reply));
  }
}

}  // namespace mf
