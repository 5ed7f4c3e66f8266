#include "common/client/lease_work.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "common/base/buffer.h"

namespace mf {
namespace {
constexpr double kNormEpsilon = 1e-6;  // torch.nn.utils.clip_grad_norm_
}

Request BoardRequest(Op op, const Reply& lease) {
  Request request;
  request.op = op;
  request.epoch = lease.epoch;
  request.step = lease.step;
  request.micro_batch = lease.micro_batch;
  request.lease = lease.lease;
  return request;
}

bool WorkIsOver(Code code) {
  switch (code) {
    case Code::kStale:
    case Code::kNotYet:
    case Code::kWrongEpoch:
    case Code::kUnavailable:
    case Code::kNotJoined:
      return true;
    default:
      return false;
  }
}

void RecordCursor::Tell(Request* ask) const {
  ask->epoch = epoch_;
  ask->step = step_;
}

std::vector<StepRecord> RecordCursor::Take(const Reply& lease) {
  std::vector<StepRecord> news;
  // An answer from before a recovery that was under way for long: what it tells is told again.
  if (lease.epoch < epoch_) return news;
  if (lease.epoch > epoch_) {
    // The run was rolled back: steps come again, and are then the ones that count.
    epoch_ = lease.epoch;
    step_ = 0;
  }
  for (const StepRecord& record : lease.records) {
    if (record.step <= step_) continue;  // another lane was told, too
    step_ = record.step;
    news.push_back(record);
  }
  return news;
}

Result<Prepared> CombinePrepared(const std::vector<TensorSpec>& tensors,
                                 const std::vector<std::vector<size_t>>& blocks,
                                 const std::vector<Reply>& replies) {
  Prepared prepared;
  // Per server: [tensor][table][own block]. Canonical order: tensor, table, block over all servers.
  const size_t servers = replies.size();
  std::vector<size_t> position(servers, 0);
  const TensorSpec* not_finite = nullptr;
  for (size_t server = 0; server < servers; ++server) {
    size_t due = 0;
    for (const TensorSpec& tensor : tensors) {
      due += static_cast<size_t>(tensor.tables) * blocks[tensor.id][server];
    }
    const Reply& reply = replies[server];
    if (reply.payload.size() != 1 || reply.payload[0].size() != due * sizeof(double)) {
      return Status::Failed("server " + std::to_string(server) +
                            " answered prepare with a frame of the wrong size");
    }
    prepared.snapshots.push_back(reply.snapshots);
    // The first tensor in canonical order, whichever server names it.
    const TensorSpec* named = FindTensor(tensors, reply.text);
    if (named != nullptr && (not_finite == nullptr || named->id < not_finite->id))
      not_finite = named;
  }
  for (const TensorSpec& tensor : tensors) {
    double of_tensor = 0;
    for (int64_t k = 0; k < tensor.tables; ++k) {
      for (size_t server = 0; server < servers; ++server) {
        for (size_t block = 0; block < blocks[tensor.id][server]; ++block) {
          const double square =
              LoadUnaligned<double>(replies[server].payload[0].data(), position[server]++);
          of_tensor += square;
          prepared.squares += square;
        }
      }
    }
    if (!std::isfinite(of_tensor) && (not_finite == nullptr || tensor.id < not_finite->id)) {
      not_finite = &tensor;
    }
  }
  if (not_finite != nullptr) {
    prepared.not_finite = not_finite->name;
    // Which parts of a bad contribution were added depends on the cut; the sum says nothing.
    prepared.squares = std::numeric_limits<double>::quiet_NaN();
  }
  return prepared;
}

StepEnd DecideEnd(const Prepared& prepared, const Reply& lease) {
  StepEnd end;
  end.norm = std::sqrt(prepared.squares);
  end.apply = prepared.not_finite.empty() && std::isfinite(end.norm);
  end.lr = lease.lr;
  end.scale = 1;
  if (lease.clip > 0) end.scale = std::min(1.0, lease.clip / (end.norm + kNormEpsilon));
  if (!end.apply) end.scale = 0;
  end.snapshots = PlanSnapshots(prepared.snapshots, lease.snapshot_due, lease.snapshot_keep);
  return end;
}

Request EndRequest(uint64_t epoch, uint64_t step, const StepEnd& end) {
  Request request;
  request.op = end.apply ? Op::kApply : Op::kDrop;
  request.epoch = epoch;
  request.step = step;
  request.lr = end.lr;
  request.scale = end.scale;
  request.value = end.norm;
  request.snapshot = end.snapshots.take;
  request.common = end.snapshots.common;
  request.discard = end.snapshots.discard;
  return request;
}

Result<bool> HowItEnded(uint64_t step, const std::vector<Reply>& replies) {
  for (const Reply& reply : replies) {
    if (reply.applied != replies[0].applied) {
      return Status::Failed("servers disagree how step " + std::to_string(step) + " ended");
    }
  }
  return replies[0].applied;
}

Request StepEndedRequest(const Reply& lease, const Prepared& prepared, const StepEnd& end,
                         bool applied) {
  Request ended = BoardRequest(Op::kStepEnded, lease);
  ended.snapshot = end.snapshots.take;
  ended.applied = applied;
  ended.value = end.norm;
  ended.text = prepared.not_finite;
  return ended;
}

Recovery DecideRecovery(const Reply& lease, const std::vector<Reply>& states) {
  Recovery recovery;
  recovery.recovered = BoardRequest(Op::kRecovered, lease);
  std::vector<ServerState> servers;
  for (const Reply& state : states) {
    recovery.recovered.incarnations.push_back(state.incarnation);
    servers.push_back({state.epoch, state.snapshots, state.had_common});
  }
  recovery.plan = PlanRecovery(servers, lease.epoch);
  recovery.recovered.applied = recovery.plan.action == RecoveryPlan::Action::kRollback;
  if (recovery.plan.action == RecoveryPlan::Action::kHigherEpoch) {
    recovery.recovered.value = std::bit_cast<double>(recovery.plan.epoch_seen);
  }
  if (recovery.plan.action != RecoveryPlan::Action::kRollback) return recovery;
  recovery.recovered.step = recovery.plan.step;
  recovery.rollbacks.assign(states.size(), BoardRequest(Op::kRollback, lease));
  for (size_t server = 0; server < states.size(); ++server) {
    recovery.rollbacks[server].step = recovery.plan.step;
    // Of this process and no other in its place: who is new there may not have what it had.
    recovery.rollbacks[server].incarnations = {states[server].incarnation};
  }
  return recovery;
}

}  // namespace mf
