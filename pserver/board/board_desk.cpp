#include "pserver/board/board_desk.h"

#include <bit>

namespace mf {

BoardDesk::BoardDesk(const Config& config, uint64_t boot_count, Metrics* metrics, Send send)
    : board_(config.train, config.snapshot,
             config.train.micro_batches * config.tokens_per_micro_batch(), boot_count),
      metrics_(metrics),
      send_(std::move(send)),
      live_seconds_(config.train.lease_seconds),
      phase_(board_.phase()) {
  if (metrics_ == nullptr) return;
  metrics_->Count(Metric::kLeaseExpired, {}, 0);
  metrics_->Set(Metric::kWorkersLive, 0);
}

Status BoardDesk::Handle(const std::string& peer, const Request& request, double now,
                         bool* answered) {
  heard_[request.session] = now;
  const Status status = HandOn(peer, request, now, answered);
  Observe(now);
  return status;
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

Status BoardDesk::HandOn(const std::string& peer, const Request& r, double now, bool* answered) {
  if (r.op == Op::kLease) return Lease(peer, r, now, answered);
  Board::Grants grants;
  Status status;
  switch (r.op) {
    case Op::kRenew:
      status = board_.Renew(r.lease, now);
      break;
    case Op::kGiveBack:
      grants = board_.GiveBack(r.lease, now);
      break;
    case Op::kMicroBatchDone:
      status = board_.MicroBatchDone(r.epoch, r.step, r.micro_batch, r.value, now, &grants);
      break;
    case Op::kStepEnded:
      status =
          board_.StepEnded(r.epoch, r.step, r.applied, r.value, r.text, r.snapshot, now, &grants);
      break;
    case Op::kEvaluated:
      status = board_.Evaluated(r.epoch, r.step, r.value, now, &grants);
      break;
    default:
      status = board_.Recovered(r.epoch, r.step, r.applied, std::bit_cast<uint64_t>(r.value), now,
                                &grants, r.incarnations);
  }
  SendGrants(grants);
  return status;
}

Status BoardDesk::Lease(const std::string& peer, const Request& request, double now,
                        bool* answered) {
  *answered = true;
  if (AskLog::Ask* known = asks_.Find(request.session, request.id); known != nullptr) {
    known->peer = peer;  // after a reconnect the old identity is nobody
    if (known->answer.has_value()) send_(peer, *known->answer);
    return Status::Ok();
  }
  const Board::Meeting meeting = board_.Meet(request.incarnations);
  if (meeting == Board::Meeting::kWorkerIsBehind) {
    return {Code::kNotJoined, "a server was restarted since; say hello again"};
  }
  if (meeting == Board::Meeting::kNewServer) SendGrants(board_.NeedRecovery(now));
  // Records of before a rollback may come again, and are then the ones that count.
  const uint64_t known_step = request.epoch == board_.epoch() ? request.step : 0;
  const uint64_t ticket = asks_.Add(request.session, request.id, peer);
  SendGrants(board_.Ask(ticket, request.session, known_step, now));
  return Status::Ok();
}

void BoardDesk::SendGrants(const Board::Grants& grants) {
  for (const Grant& grant : grants) {
    Reply reply;
    reply.op = Op::kLease;
    reply.work = grant.work;
    reply.epoch = grant.epoch;
    reply.step = grant.step;
    reply.micro_batch = grant.micro_batch;
    reply.lease = grant.lease;
    reply.lease_seconds = grant.lease_seconds;
    reply.lr = grant.lr;
    reply.clip = grant.clip;
    reply.snapshot_due = grant.snapshot_due;
    reply.snapshot_keep = grant.snapshot_keep;
    reply.text = grant.message;
    reply.records = grant.records;
    reply.id = asks_.RequestId(grant.ticket);
    const AskLog::Ask& ask = asks_.Answer(grant.ticket, std::move(reply));
    send_(ask.peer, *ask.answer);
  }
}

}  // namespace mf
