#include "pserver/board/board_desk.h"

namespace mf {

BoardDesk::BoardDesk(const RunRules& rules, uint64_t boot_count, Metrics* metrics, Send send)
    : board_(rules, boot_count),
      metrics_(metrics),
      send_(std::move(send)),
      live_seconds_(rules.lease_seconds),
      phase_(board_.phase()) {
  if (metrics_ == nullptr) return;
  metrics_->Count(Metric::kLeaseExpired, {}, 0);
  metrics_->Set(Metric::kWorkersLive, 0);
}

void BoardDesk::Tick(double now) {
  std::erase_if(heard_, [&](const auto& entry) { return entry.second + live_seconds_ <= now; });
  SendGrants(board_.Tick(now));
  Observe(now);
}

void BoardDesk::Observe(double now) {
  if (metrics_ == nullptr) return;
  metrics_->Set(Metric::kWorkersLive, static_cast<double>(heard_.size()));
  metrics_->Count(Metric::kLeaseExpired, {},
                  static_cast<double>(board_.leases_expired() - expired_));
  expired_ = board_.leases_expired();
  if (phase_ == board_.phase() && phase_step_ == board_.step() && phase_since_ >= 0) return;
  if (phase_since_ >= 0) metrics_->Observe(Metric::kStepSeconds, now - phase_since_, {phase_});
  phase_ = board_.phase();
  phase_step_ = board_.step();
  phase_since_ = now;
}

Status BoardDesk::Lease(const std::string& peer, const Request& request, const LeaseRequest& ask,
                        double now) {
  heard_[request.session] = now;
  if (AskLog::Ask* known = asks_.Find(request.session, request.id); known != nullptr) {
    known->peer = peer;  // after a reconnect the old identity is nobody
    if (known->answer.has_value()) send_(peer, *known->answer);
    return Status::Ok();
  }
  const Board::Incarnations compared = board_.Compare(ask.incarnations);
  if (compared == Board::Incarnations::kWorkerIsBehind) {
    return {Code::kNotJoined, "a server was restarted since; say hello again"};
  }
  if (compared == Board::Incarnations::kNewServer) SendGrants(board_.NeedRecovery(now));
  // Records of before a rollback may come again, and are then the ones that count.
  const uint64_t known_step = ask.known_epoch == board_.epoch() ? ask.known_step : 0;
  const uint64_t ticket = asks_.Add(request.session, request.id, peer);
  SendGrants(board_.Ask(ticket, request.session, known_step, now));
  Observe(now);
  return Status::Ok();
}

void BoardDesk::SendGrants(const Board::Grants& grants) {
  for (const Grant& grant : grants) {
    Reply reply{.id = asks_.RequestId(grant.ticket),
                .op = Op::kLease,
                .body = static_cast<const LeaseReply&>(grant)};
    const AskLog::Ask& ask = asks_.Answer(grant.ticket, std::move(reply));
    send_(ask.peer, *ask.answer);
  }
}

}  // namespace mf
