#include "pserver/coordinator/coordinator_service.h"

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
  heard_[request.session] = now;
  if (LeaseRequestCache::Ask* known = asks_.Find(request.session, request.id); known != nullptr) {
    known->peer = peer;  // after a reconnect the old identity is nobody
    if (known->answer.has_value()) send_(peer, *known->answer);
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
    Reply reply{.id = asks_.RequestId(grant.ticket),
                .op = Op::kLease,
                .body = static_cast<const LeaseReply&>(grant)};
    const LeaseRequestCache::Ask& ask = asks_.Answer(grant.ticket, std::move(reply));
    send_(ask.peer, *ask.answer);
  }
}

}  // namespace mf
