#include "pserver/board_desk.h"

#include <bit>

namespace mf {

Status BoardDesk::Handle(const std::string& peer, const Request& r, double now, bool* answered) {
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
      status = board_.StepEnded(r.epoch, r.step, r.applied, r.value, r.text, now, &grants);
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
    reply.work = grant.work;
    reply.epoch = grant.epoch;
    reply.step = grant.step;
    reply.micro_batch = grant.micro_batch;
    reply.lease = grant.lease;
    reply.lease_seconds = grant.lease_seconds;
    reply.lr = grant.lr;
    reply.clip = grant.clip;
    reply.text = grant.message;
    reply.records = grant.records;
    reply.id = asks_.RequestId(grant.ticket);
    const AskLog::Ask& ask = asks_.Answer(grant.ticket, std::move(reply));
    send_(ask.peer, *ask.answer);
  }
}

}  // namespace mf
