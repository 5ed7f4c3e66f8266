#include "common/client/lease_work.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/base/buffer.h"

namespace mf {
namespace {
constexpr double kNormEpsilon = 1e-6;  // torch.nn.utils.clip_grad_norm_
}

Result<Prepared> CombinePrepared(const std::vector<TensorSpec>& tensors, const RunShares& shares,
                                 const std::vector<Reply>& replies) {
  Prepared prepared;
  // Per server: [tensor][own table][own block]. Canonical order: tensor, table, block over all
  // servers.
  const size_t servers = replies.size();
  std::vector<size_t> position(servers, 0);
  const TensorSpec* not_finite = nullptr;
  for (size_t server = 0; server < servers; ++server) {
    size_t due = 0;
    for (const TensorSpec& tensor : tensors) {
      const TensorShare& share = shares[tensor.id][server];
      due += static_cast<size_t>(share.tables.size()) * share.blocks.size();
    }
    const Reply& reply = replies[server];
    if (reply.payload.size() != 1 || reply.payload[0].size() != due * sizeof(double)) {
      return Status::Failed("server " + std::to_string(server) +
                            " answered prepare with a frame of the wrong size");
    }
    const PrepareReply& answer = As<PrepareReply>(reply);
    prepared.snapshots.push_back(answer.snapshots);
    // The first tensor in canonical order, whichever server names it.
    const TensorSpec* named = FindTensor(tensors, answer.not_finite);
    if (named != nullptr && (not_finite == nullptr || named->id < not_finite->id))
      not_finite = named;
  }
  for (const TensorSpec& tensor : tensors) {
    double of_tensor = 0;
    for (int64_t k = 0; k < tensor.tables; ++k) {
      for (size_t server = 0; server < servers; ++server) {
        const TensorShare& share = shares[tensor.id][server];
        if (!share.Has(k)) continue;
        for (size_t block = 0; block < share.blocks.size(); ++block) {
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

StepEnd DecideEnd(const Prepared& prepared, const LeaseReply& lease) {
  StepEnd end;
  end.grad_norm = std::sqrt(prepared.squares);
  end.apply = prepared.not_finite.empty() && std::isfinite(end.grad_norm);
  end.lr = lease.lr;
  end.scale = 1;
  if (lease.clip > 0) end.scale = std::min(1.0, lease.clip / (end.grad_norm + kNormEpsilon));
  if (!end.apply) end.scale = 0;
  end.snapshots = PlanSnapshots(prepared.snapshots, lease.snapshot_due, lease.snapshot_keep);
  return end;
}

RequestBody EndRequest(OpenStep at, const StepEnd& end) {
  if (!end.apply) {
    return DropRequest{.at = at, .grad_norm = end.grad_norm, .snapshots = end.snapshots};
  }
  return ApplyRequest{.at = at,
                      .lr = end.lr,
                      .scale = end.scale,
                      .grad_norm = end.grad_norm,
                      .snapshots = end.snapshots};
}

Result<bool> CombineEnded(OpenStep at, const std::vector<Reply>& replies) {
  const auto applied = [](const Reply& reply) {
    const auto* apply = std::get_if<ApplyReply>(&reply.body);
    return apply != nullptr ? apply->applied : As<DropReply>(reply).applied;
  };
  for (const Reply& reply : replies) {
    if (applied(reply) != applied(replies[0])) {
      return Status::Failed("servers disagree how step " + std::to_string(at.step) + " ended");
    }
  }
  return applied(replies[0]);
}

StepEndedRequest MakeStepEnded(OpenStep at, const Prepared& prepared, const StepEnd& end,
                               bool applied) {
  return {.at = at,
          .applied = applied,
          .grad_norm = end.grad_norm,
          .not_finite = prepared.not_finite,
          .snapshot = end.snapshots.take};
}

Recovery DecideRecovery(const LeaseReply& lease, const std::vector<Reply>& states, bool may_save) {
  using Action = RecoveryPlan::Action;
  Recovery recovery;
  std::vector<ServerState> servers;
  for (const Reply& reply : states) {
    const RunState& state = As<StatusReply>(reply).state;
    recovery.recovered.incarnations.push_back(reply.incarnation);
    servers.push_back({state.finished, state.snapshots, state.had_common});
  }
  if (may_save) recovery.save = StepToSave(servers);
  recovery.plan = PlanRecovery(servers, lease.epoch);
  recovery.recovered.to = {lease.epoch, recovery.plan.step};
  recovery.recovered.recovered = recovery.plan.action == Action::kRollback;
  if (recovery.plan.action == Action::kHigherEpoch) {
    recovery.recovered.epoch_seen = recovery.plan.epoch_seen;
  }
  if (recovery.plan.action != Action::kRollback) return recovery;
  for (const Reply& reply : states) {
    // Of this process and no other in its place: who is new there may not have what it had.
    recovery.rollbacks.push_back(
        {.body = RollbackRequest{.to = recovery.recovered.to, .incarnation = reply.incarnation}});
  }
  return recovery;
}

bool AllSaved(const std::vector<Reply>& replies, uint64_t step) {
  return std::all_of(replies.begin(), replies.end(), [step](const Reply& reply) {
    const std::vector<uint64_t>& published = As<SaveReply>(reply).snapshots.published;
    return std::binary_search(published.begin(), published.end(), step);
  });
}

}  // namespace mf
