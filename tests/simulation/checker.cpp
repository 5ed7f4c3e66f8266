#include "tests/simulation/checker.h"

#include <algorithm>
#include <cstring>

#include "common/client/snapshot_plan.h"

namespace mf::simulation {
namespace {

std::vector<uint64_t> StepsOf(const Disk& disk) {
  std::vector<uint64_t> steps;
  for (const auto& [step, snapshot] : disk.published) steps.push_back(step);
  return steps;
}

std::string Text(uint64_t number) { return std::to_string(number); }

std::string EpochText(uint64_t epoch) { return Text(epoch >> 32) + "." + Text(epoch & 0xFFFFFFFF); }

bool SameAnswer(const Reply& a, const Reply& b) {
  if (a.body != b.body || a.payload.size() != b.payload.size()) return false;
  for (size_t i = 0; i < a.payload.size(); ++i) {
    if (a.payload[i].size() != b.payload[i].size() ||
        std::memcmp(a.payload[i].data(), b.payload[i].data(), a.payload[i].size()) != 0) {
      return false;
    }
  }
  return true;
}

}  // namespace

bool IsOutOfMemory(const std::string& message) {
  return message.find("enough memory") != std::string::npos;
}

OpenStep StepOf(const Request& request) {
  return std::visit(
      [](const auto& body) -> OpenStep {
        if constexpr (requires { std::get<OpenStep>(body.at); }) {
          const FinishedStep* finished = std::get_if<FinishedStep>(&body.at);
          return finished != nullptr ? OpenStep{finished->epoch, finished->step}
                                     : std::get<OpenStep>(body.at);
        } else if constexpr (requires { body.at; }) {
          return {body.at.epoch, body.at.step};
        } else if constexpr (requires { body.to; }) {
          return {body.to.epoch, body.to.step};
        } else {
          return {};
        }
      },
      request.body);
}

uint64_t Checker::NewestCommon() const {
  std::vector<SnapshotState> states;
  for (const Disk* disk : disks_) states.push_back({StepsOf(*disk), 0});
  return NewestCommonStep(states);
}

void Checker::Before(size_t server, const Request&, const CommitState& commit) {
  epoch_ = commit.epoch();
  finished_ = commit.finished();
  common_ = NewestCommon();
  published_ = StepsOf(*disks_[server]);
}

void Checker::After(size_t server, const Request& request, const CommitState& commit,
                    const std::vector<std::pair<std::string, Reply>>& replies) {
  const Op op = request.op();
  const OpenStep at = StepOf(request);
  const bool is_end = op == Op::kApply || op == Op::kDrop;
  const std::string where = "server " + Text(server) + ", " + OpName(op) + " of step " +
                            Text(at.step) + " in epoch " + EpochText(at.epoch) + ": ";
  if (commit.epoch() < epoch_) fail_(where + "the epoch went back");
  const bool rolled_back = commit.epoch() != epoch_;
  const bool ended = !rolled_back && commit.finished() != finished_;
  if (rolled_back && op != Op::kRollback) fail_(where + "the epoch changed");
  if (ended && (commit.finished() != finished_ + 1 || commit.finished() != at.step ||
                at.epoch != epoch_ || !is_end)) {
    fail_(where + "finished steps went from " + Text(finished_) + " to " + Text(commit.finished()));
  }
  const Reply* own = nullptr;
  for (const auto& [peer, reply] : replies) {
    if (reply.op == op && reply.id == request.id) own = &reply;
    if (reply.op == Op::kLease && reply.code == Code::kOk) CheckGrant(As<LeaseReply>(reply));
    // Whatever is late, lost or repeated: what a worker says is never wrong in itself.
    // Its disk, or its memory.
    const bool failed_well =
        reply.code == Code::kFailed && (reply.op == Op::kSave || IsOutOfMemory(reply.message));
    if (reply.code == Code::kInvalid || (reply.code == Code::kFailed && !failed_well) ||
        reply.code == Code::kWrongRun) {
      fail_(where + "answered with an error: " + reply.message);
    }
    if (reply.code == Code::kOk && !Answers(reply, reply.op)) {
      fail_(where + "answered as if asked something else");
    }
  }
  if (own == nullptr) return;  // waiting
  CountRefusals(request, *own);
  const bool ok = own->code == Code::kOk;
  if (op == Op::kRollback) {
    if (rolled_back) {
      CheckRollback(server, std::get<RollbackRequest>(request.body).to, *own);
    } else if (ok) {
      tally_.Add(Seen::kRollbackRepeated);
      if (targets_[at.epoch] != at.step) fail_(where + "a repeat to another step");
    }
  }
  if (is_end) {
    if (ok) {
      if (!ended) tally_.Add(Seen::kEndRepeated);
      CheckEnd(server, at,
               op == Op::kApply ? As<ApplyReply>(*own).applied : As<DropReply>(*own).applied);
    }
    if (ended) CountDiscarded(server);
    if (NewestCommon() < common_) fail_(where + "the newest common step was deleted");
  }
  if (op == Op::kPrepare && ok) CheckPrepare(server, at, *own);
  if (op == Op::kRecovered && ok) recovering_ = false;
  if (op == Op::kEvaluated && ok) tally_.Add(Seen::kEvaluated);
}

void Checker::AfterTick(const std::vector<std::pair<std::string, Reply>>& replies) {
  for (const auto& [peer, reply] : replies) CheckGrant(As<LeaseReply>(reply));
}

void Checker::CheckRollback(size_t server, FinishedStep to, const Reply& reply) {
  const std::string where = "server " + Text(server) + ", rollback to step " + Text(to.step) +
                            " in epoch " + EpochText(to.epoch) + ": ";
  const auto known = targets_.emplace(to.epoch, to.step);
  if (known.first->second != to.step) fail_(where + "others went to another step");
  const uint64_t target = to.step;
  if (reply.code == Code::kUnavailable) {
    // A damaged snapshot was found and set aside: what is common has changed.
    tally_.Add(Seen::kRollbackFoundDamage);
    set_aside_.insert({server, target});
    for (auto& [epoch, common] : common_at_lease_) common = std::min(common, NewestCommon());
    return;
  }
  if (reply.code != Code::kOk) return;
  tally_.Add(target == 0 ? Seen::kRollbackToZero : Seen::kRollbackToSnapshot);
  for (size_t i = 0; target != 0 && i < disks_.size(); ++i) {
    if (!disks_[i]->published.contains(target) && !set_aside_.contains({i, target})) {
      fail_(where + "server " + Text(i) + " does not have it");
    }
  }
  if (target < common_at_lease_[to.epoch]) {
    fail_(where + "step " + Text(common_at_lease_[to.epoch]) + " was common");
  }
  if (NewestCommon() < std::min(common_, target)) fail_(where + "the common step was deleted");
}

void Checker::CheckEnd(size_t server, OpenStep at, bool applied) {
  const std::string where = "server " + Text(server) + ", end of step " + Text(at.step) +
                            " in epoch " + EpochText(at.epoch) + ": ";
  const auto known = ended_.emplace(std::pair(at.epoch, at.step), applied);
  if (known.second) tally_.Add(applied ? Seen::kApplied : Seen::kDropped);
  if (known.first->second != applied) fail_(where + "it ended otherwise elsewhere");
  if (applied == model_.Dropped(at.step)) fail_(where + (applied ? "applied" : "dropped"));
}

void Checker::CheckPrepare(size_t server, OpenStep at, const Reply& reply) {
  const auto known = prepared_.emplace(std::tuple(at.epoch, at.step, server), reply);
  if (known.second) return;
  tally_.Add(Seen::kPrepareRepeated);
  if (!SameAnswer(known.first->second, reply)) {
    fail_("server " + Text(server) + " answered prepare of step " + Text(at.step) +
          " differently the second time");
  }
}

void Checker::CheckGrant(const LeaseReply& lease) {
  if (lease.work == Work::kFinished) finished_epoch_ = lease.epoch;
  if (lease.work == Work::kEvaluate) {
    const auto known = evaluations_.emplace(lease.step, lease.epoch);
    if (known.first->second != lease.epoch) tally_.Add(Seen::kEvaluationAfterRecovery);
  }
  if (lease.work != Work::kRecover || common_at_lease_.contains(lease.epoch)) return;
  if (lease.epoch <= newest_epoch_) {
    fail_("epoch " + EpochText(lease.epoch) + " was leased after " + EpochText(newest_epoch_));
  }
  tally_.Add(Seen::kRecoverLeased);
  if (recovering_) tally_.Add(Seen::kSecondRecoverHolder);
  if (finished_epoch_ != 0 && finished_epoch_ == newest_epoch_) {
    tally_.Add(Seen::kRecoveredAfterTheEnd);
  }
  recovering_ = true;
  newest_epoch_ = lease.epoch;
  common_at_lease_[lease.epoch] = NewestCommon();
}

void Checker::CountDiscarded(size_t server) {
  const Disk& disk = *disks_[server];
  for (const uint64_t step : published_) {
    if (disk.published.contains(step)) continue;
    tally_.Add(step < common_ ? Seen::kDiscardedOld : Seen::kDiscardedUncommon);
  }
}

void Checker::CountRefusals(const Request& request, const Reply& reply) {
  if (reply.code == Code::kOk) return;
  if (reply.code == Code::kNotJoined) tally_.Add(Seen::kNotJoined);
  switch (request.op()) {
    case Op::kRollback:
      if (reply.code == Code::kWrongEpoch) {
        tally_.Add(reply.message.find("incarnation") != std::string::npos
                       ? Seen::kRollbackFencedByIncarnation
                       : Seen::kRollbackFencedByEpoch);
      }
      break;
    case Op::kApply:
    case Op::kDrop:
      tally_.Add(reply.code == Code::kWrongEpoch ? Seen::kEndFencedByEpoch : Seen::kEndTooLate);
      break;
    case Op::kPrepare:
      tally_.Add(Seen::kPrepareFenced);
      break;
    case Op::kPush:
    case Op::kBackward:
      if (reply.code == Code::kWrongEpoch) tally_.Add(Seen::kContributionFenced);
      if (reply.code == Code::kStale) tally_.Add(Seen::kContributionStale);
      break;
    case Op::kStepEnded:
      tally_.Add(Seen::kStepEndedRefused);
      break;
    default:
      break;
  }
}

void Checker::BeforePublish() { common_ = NewestCommon(); }

void Checker::AfterPublish(size_t server) {
  if (NewestCommon() < common_) {
    fail_("server " + Text(server) + " lost the newest common step while it published another");
  }
}

}  // namespace mf::simulation
