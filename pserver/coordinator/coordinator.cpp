#include "pserver/coordinator/coordinator.h"

#include <algorithm>

#include "common/run/schedule.h"

namespace mf {
namespace {
constexpr size_t kDurationsKept = 64;
constexpr ptrdiff_t kRecordsPerGrant = 2000;  // 100 KB: a worker keeps what its largest answer took
constexpr double kSecondLeaseAfterMedians = 2;
}  // namespace

Coordinator::Coordinator(const RunRules& rules, uint64_t boot_count)
    : rules_(rules), boot_count_(boot_count) {}

const char* Coordinator::phase() const {
  switch (phase_) {
    case Phase::kRecover:
      return "recover";
    case Phase::kMicroBatches:
      return "micro_batches";
    case Phase::kCommit:
      return "commit";
    case Phase::kEvaluate:
      return "evaluate";
    case Phase::kFinished:
      return "finished";
    case Phase::kFailed:
      break;
  }
  return "failed";
}

Coordinator::Grants Coordinator::Ask(uint64_t ticket, uint64_t session, uint64_t known_step,
                                     double now) {
  waiting_.push_back({ticket, session, known_step, now + kWaitSecondsMax});
  return Tick(now);
}

Coordinator::Grants Coordinator::Tick(double now) {
  Expire(now);
  return Serve(now);
}

Coordinator::Grants Coordinator::Serve(double now) {
  Grants grants;
  for (Waiting& waiting : waiting_) waiting.held = LeasesOf(waiting.session);
  while (ServeNext(now, &grants)) {
  }
  std::erase_if(waiting_, [&](const Waiting& waiting) {
    if (waiting.until > now) return false;
    Answer(waiting, {}, &grants);
    return true;
  });
  return grants;
}

/// Serves one of the waiting asks, if there is something for any. Fewest leases first: the lanes of
/// a worker all ask when a step opens, and must not take it from a worker that asked after them.
bool Coordinator::ServeNext(double now, Grants* grants) {
  std::sort(waiting_.begin(), waiting_.end(), [](const Waiting& a, const Waiting& b) {
    return std::pair(a.held, a.ticket) < std::pair(b.held, b.ticket);
  });
  for (auto waiting = waiting_.begin(); waiting != waiting_.end(); ++waiting) {
    Grant grant;
    if (!Serve(*waiting, now, &grant)) continue;
    Answer(*waiting, std::move(grant), grants);
    for (Waiting& other : waiting_) other.held += other.session == waiting->session ? 1 : 0;
    waiting_.erase(waiting);
    return true;
  }
  return false;
}

void Coordinator::Answer(const Waiting& waiting, Grant grant, Grants* grants) const {
  grant.ticket = waiting.ticket;
  grant.epoch = epoch_;
  grant.step = step_;
  grant.known_step = waiting.known_step;
  grant.records = RecordsAfter(grant.known_step);
  grants->push_back(std::move(grant));
}

size_t Coordinator::LeasesOf(uint64_t session) const {
  size_t count = 0;
  for (const MicroBatch& micro_batch : micro_batches_) {
    count += static_cast<size_t>(
        std::count_if(micro_batch.leases.begin(), micro_batch.leases.end(),
                      [session](const Lease& lease) { return lease.session == session; }));
  }
  return count;
}

bool Coordinator::Serve(const Waiting& waiting, double now, Grant* grant) {
  // Who is stopped still brings a server that was started again back into the run: else nobody
  // might, and the last step could not be saved.
  const bool stopped = stopped_.contains(waiting.session) && phase_ != Phase::kRecover;
  if (stopped || left_.contains(waiting.session)) {
    grant->work = Work::kStopped;
    return true;
  }
  switch (phase_) {
    case Phase::kRecover:
      return GrantExclusive(waiting, Work::kRecover, now, grant);
    case Phase::kMicroBatches:
      return GrantMicroBatch(waiting, now, grant);
    case Phase::kCommit:
      return GrantExclusive(waiting, Work::kCommit, now, grant);
    case Phase::kEvaluate:
      return GrantExclusive(waiting, Work::kEvaluate, now, grant);
    case Phase::kFinished:
      grant->work = Work::kFinished;
      return true;
    case Phase::kFailed:
      grant->work = Work::kFailed;
      grant->failure = failure_;
      return true;
  }
  return false;
}

Coordinator::Lease Coordinator::NewLease(uint64_t session, double now) {
  return {next_lease_++, session, now + rules_.lease_seconds, now};
}

bool Coordinator::GrantExclusive(const Waiting& waiting, Work work, double now, Grant* grant) {
  if (exclusive_lease_.has_value()) return false;
  if (work == Work::kRecover) {
    // Every recovery has an epoch of its own, so that a holder whose lease ended is fenced off.
    epoch_ = boot_count_ << 32 | ++epoch_counter_;
  }
  exclusive_lease_ = NewLease(waiting.session, now);
  grant->work = work;
  grant->lease = exclusive_lease_->id;
  grant->lease_seconds = rules_.lease_seconds;
  grant->lr = step_lr_;
  grant->clip = rules_.clip;
  if (work == Work::kCommit) {
    if (!step_due_.has_value()) step_due_ = DueAfter(step_, now);
    grant->snapshot_due = *step_due_;
    grant->snapshot_keep = static_cast<uint64_t>(rules_.snapshots.keep);
  }
  return true;
}

SnapshotDue Coordinator::DueAfter(uint64_t step, double now) const {
  if (!rules_.snapshots.on()) return SnapshotDue::kNo;
  if (step == static_cast<uint64_t>(rules_.steps)) return SnapshotDue::kNow;
  const uint64_t every = static_cast<uint64_t>(rules_.snapshots.every_steps);
  const bool by_steps = every > 0 && step / every > snapshot_step_ / every;
  const bool by_time = rules_.snapshots.every_minutes > 0 &&
                       now - snapshot_time_ >= rules_.snapshots.every_minutes * 60;
  return by_steps || by_time ? SnapshotDue::kWhenIdle : SnapshotDue::kNo;
}

bool Coordinator::GrantMicroBatch(const Waiting& waiting, double now, Grant* grant) {
  const auto lowest = std::find_if(micro_batches_.begin(), micro_batches_.end(),
                                   [](const MicroBatch& m) { return !m.done; });
  const size_t first = static_cast<size_t>(lowest - micro_batches_.begin());
  const size_t end = std::min(micro_batches_.size(), first + static_cast<size_t>(rules_.window));
  size_t chosen = micro_batches_.size();
  for (size_t i = first; i < end && chosen == micro_batches_.size(); ++i) {
    if (!micro_batches_[i].done && micro_batches_[i].leases.empty()) chosen = i;
  }
  if (chosen == micro_batches_.size()) {
    // Nothing unleased is left: the oldest unfinished one a second time, to another worker, once.
    MicroBatch& oldest = micro_batches_[first];
    const bool late = !durations_.empty() &&
                      now - oldest.leases[0].since > kSecondLeaseAfterMedians * MedianSeconds();
    if (oldest.second_given || !late || oldest.leases[0].session == waiting.session) return false;
    oldest.second_given = true;
    chosen = first;
  }
  MicroBatch& micro_batch = micro_batches_[chosen];
  micro_batch.leases.push_back(NewLease(waiting.session, now));
  grant->work = Work::kMicroBatch;
  grant->micro_batch = static_cast<uint32_t>(chosen);
  grant->lease = micro_batch.leases.back().id;
  grant->lease_seconds = rules_.lease_seconds;
  return true;
}

Status Coordinator::Renew(uint64_t lease, double now) {
  // No Expire() first: a renewal that waited while the server was busy was in time.
  if (exclusive_lease_.has_value() && exclusive_lease_->id == lease) {
    exclusive_lease_->until = now + rules_.lease_seconds;
    return Status::Ok();
  }
  for (MicroBatch& micro_batch : micro_batches_) {
    for (Lease& held : micro_batch.leases) {
      if (held.id != lease) continue;
      held.until = now + rules_.lease_seconds;
      return Status::Ok();
    }
  }
  return {Code::kStale, "lease " + std::to_string(lease) + " is not held any more"};
}

Status Coordinator::CheckStep(uint64_t epoch, uint64_t step, Phase phase) const {
  if (epoch != epoch_) {
    return {Code::kWrongEpoch,
            "epoch " + std::to_string(epoch) + ", the coordinator is at " + std::to_string(epoch_)};
  }
  if (step < step_) return {Code::kStale, "step " + std::to_string(step) + " has ended"};
  if (step > step_) return {Code::kNotYet, "step " + std::to_string(step) + " is not open"};
  if (phase != phase_) return {Code::kStale, "step " + std::to_string(step) + " is past that"};
  return Status::Ok();
}

Status Coordinator::MicroBatchDone(const MicroBatchDoneRequest& done, double now, Grants* grants) {
  MF_RETURN_IF_ERROR(CheckStep(done.at.epoch, done.at.step, Phase::kMicroBatches));
  if (done.micro_batch >= micro_batches_.size()) {
    return Status::Invalid("micro-batch " + std::to_string(done.micro_batch) + " of " +
                           std::to_string(micro_batches_.size()));
  }
  MicroBatch& micro_batch = micro_batches_[done.micro_batch];
  if (!micro_batch.done) {
    micro_batch.done = true;
    micro_batch.loss_sum = done.loss_sum;
    if (!micro_batch.leases.empty()) durations_.push_back(now - micro_batch.leases.back().since);
    if (durations_.size() > kDurationsKept) durations_.pop_front();
    micro_batch.leases.clear();
  }
  if (std::all_of(micro_batches_.begin(), micro_batches_.end(),
                  [](const MicroBatch& m) { return m.done; })) {
    EnterPhase(Phase::kCommit);
  }
  *grants = Tick(now);
  return Status::Ok();
}

void Coordinator::FailAfterDrops(const std::string& not_finite, uint64_t step) {
  failure_ = "the gradient of " + (not_finite.empty() ? "the model" : not_finite) +
             " was not finite in " + std::to_string(kDropsInARowMax) +
             " steps in a row; lower train.lr or look at the data of step " + std::to_string(step);
  EnterPhase(Phase::kFailed);
}

StepRecord Coordinator::RecordIfEnded(bool applied, double grad_norm) const {
  StepRecord record;
  record.step = step_;
  record.lr = step_lr_;
  record.grad_norm = grad_norm;
  record.dropped = !applied;
  for (const MicroBatch& micro_batch : micro_batches_) record.loss += micro_batch.loss_sum;
  record.loss /= static_cast<double>(rules_.tokens_per_step());
  return record;
}

void Coordinator::Restore(uint64_t step, const std::vector<StepRecord>& records) {
  // What was lived through here goes further than what was saved: evaluations are in it.
  if (!records_.empty() && records_.back().step >= step) return;
  records_.assign(records.begin(), records.end());
}

Status Coordinator::StepEnded(const StepEndedRequest& ended, double now, Grants* grants) {
  const uint64_t step = ended.at.step;
  MF_RETURN_IF_ERROR(CheckStep(ended.at.epoch, step, Phase::kCommit));
  records_.push_back(RecordIfEnded(ended.applied, ended.grad_norm));
  if (ended.snapshot) {
    snapshot_step_ = step;
    snapshot_time_ = now;
  }
  drops_in_a_row_ = ended.applied ? 0 : drops_in_a_row_ + 1;
  if (drops_in_a_row_ >= kDropsInARowMax) {
    FailAfterDrops(ended.not_finite, step);
  } else if (EvaluationFollows(step)) {
    EnterPhase(Phase::kEvaluate);
  } else {
    OpenStep(step + 1);
  }
  *grants = Tick(now);
  return Status::Ok();
}

Status Coordinator::Evaluated(const EvaluatedRequest& evaluated, double now, Grants* grants) {
  MF_RETURN_IF_ERROR(CheckStep(evaluated.at.epoch, evaluated.at.step, Phase::kEvaluate));
  records_.back().val_loss = evaluated.val_loss;
  records_.back().has_val_loss = true;
  OpenStep(evaluated.at.step + 1);
  *grants = Tick(now);
  return Status::Ok();
}

Status Coordinator::Recovered(const RecoveredRequest& recovered, double now, Grants* grants) {
  const auto [epoch, step] = recovered.to;
  const bool ok = recovered.recovered;
  const std::vector<uint64_t>& incarnations = recovered.incarnations;
  if (epoch != epoch_ || phase_ != Phase::kRecover) {
    return {Code::kWrongEpoch, "recovery of epoch " + std::to_string(epoch) + " is not awaited"};
  }
  if (ok && step > static_cast<uint64_t>(rules_.steps)) {
    return Status::Invalid("recovery to step " + std::to_string(step) + " of a run of " +
                           std::to_string(rules_.steps));
  }
  if (ok) {
    for (size_t i = 0; i < incarnations_.size() && i < incarnations.size(); ++i) {
      if (incarnations_[i] != incarnations[i]) retired_incarnations_.insert(incarnations_[i]);
    }
    incarnations_ = incarnations;
    snapshot_step_ = step;
    snapshot_time_ = now;
    while (!records_.empty() && records_.back().step > step) records_.pop_back();
    // What is counted is as if nothing had been lost.
    drops_in_a_row_ = 0;
    for (auto r = records_.rbegin(); r != records_.rend() && r->dropped; ++r) ++drops_in_a_row_;
    if (drops_in_a_row_ >= kDropsInARowMax) {
      FailAfterDrops("", step);  // as it had before it was stopped
    } else if (LastRecordIsIncomplete() && records_.back().step == step) {
      step_ = step;
      EnterPhase(Phase::kEvaluate);
    } else {
      OpenStep(step + 1);
    }
  } else {
    const uint64_t epoch_seen = recovered.epoch_seen;
    const uint64_t boot_seen = epoch_seen >> 32, counter_seen = epoch_seen & 0xFFFFFFFF;
    if (boot_seen > boot_count_) {
      failure_ = "a server is at epoch " + std::to_string(epoch_seen) +
                 ", which this server 0 never issued; it must keep its --data directory";
      EnterPhase(Phase::kFailed);
    } else {
      if (boot_seen == boot_count_) epoch_counter_ = std::max(epoch_counter_, counter_seen);
      EnterPhase(Phase::kRecover);
    }
  }
  *grants = Tick(now);
  return Status::Ok();
}

Coordinator::Incarnations Coordinator::Compare(const std::vector<uint64_t>& incarnations) const {
  if (incarnations.empty() || incarnations_.empty() || incarnations == incarnations_) {
    return Incarnations::kKnown;
  }
  const bool behind = std::any_of(incarnations.begin(), incarnations.end(),
                                  [this](uint64_t i) { return retired_incarnations_.contains(i); });
  return behind ? Incarnations::kWorkerIsBehind : Incarnations::kNewServer;
}

Coordinator::Grants Coordinator::StartRecovery(double now) {
  if (phase_ != Phase::kRecover && phase_ != Phase::kFailed) EnterPhase(Phase::kRecover);
  return Tick(now);
}

Coordinator::Grants Coordinator::GiveBack(uint64_t lease, double now) {
  if (exclusive_lease_.has_value() && exclusive_lease_->id == lease) exclusive_lease_.reset();
  for (MicroBatch& micro_batch : micro_batches_) {
    std::erase_if(micro_batch.leases, [lease](const Lease& held) { return held.id == lease; });
  }
  return Tick(now);
}

Coordinator::Grants Coordinator::Leave(uint64_t session, double now) {
  const auto of_session = [session](const auto& x) { return x.session == session; };
  if (exclusive_lease_.has_value() && of_session(*exclusive_lease_)) exclusive_lease_.reset();
  for (MicroBatch& micro_batch : micro_batches_) std::erase_if(micro_batch.leases, of_session);
  left_.insert(session);
  return Tick(now);  // what it asks for is answered
}

Coordinator::Grants Coordinator::Stop(const std::set<uint64_t>& sessions, double now) {
  stopped_.insert(sessions.begin(), sessions.end());
  return Tick(now);
}

FinishedStep Coordinator::finished_step() const {
  switch (phase_) {
    case Phase::kMicroBatches:
    case Phase::kCommit:
    case Phase::kFinished:  // step_ is one behind the last
      return {epoch_, step_ - 1};
    case Phase::kEvaluate:
      return {epoch_, step_};
    case Phase::kRecover:
    case Phase::kFailed:
      break;
  }
  return {};
}

void Coordinator::Expire(double now) {
  const auto ended = [now](const Lease& lease) { return lease.until <= now; };
  if (exclusive_lease_.has_value() && ended(*exclusive_lease_)) {
    exclusive_lease_.reset();
    ++leases_expired_;
  }
  for (MicroBatch& micro_batch : micro_batches_) {
    leases_expired_ += std::erase_if(micro_batch.leases, ended);
  }
}

void Coordinator::EnterPhase(Phase phase) {
  phase_ = phase;
  exclusive_lease_.reset();
}

void Coordinator::OpenStep(uint64_t step) {
  step_ = step;
  if (step > static_cast<uint64_t>(rules_.steps)) {
    EnterPhase(Phase::kFinished);
    return;
  }
  step_due_.reset();
  micro_batches_.assign(static_cast<size_t>(rules_.micro_batches), {});
  step_lr_ = LearningRate(rules_, step);
  EnterPhase(Phase::kMicroBatches);
}

double Coordinator::MedianSeconds() const {
  std::vector<double> sorted(durations_.begin(), durations_.end());
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<ptrdiff_t>(sorted.size() / 2),
                   sorted.end());
  return sorted[sorted.size() / 2];
}

bool Coordinator::EvaluationFollows(uint64_t step) const {
  return step == static_cast<uint64_t>(rules_.steps) ||
         (rules_.eval_every > 0 && step % static_cast<uint64_t>(rules_.eval_every) == 0);
}

bool Coordinator::LastRecordIsIncomplete() const {
  return phase_ != Phase::kFailed && !records_.empty() && !records_.back().has_val_loss &&
         EvaluationFollows(records_.back().step);
}

std::vector<StepRecord> Coordinator::RecordsFrom(uint64_t step) const {
  return {std::ranges::lower_bound(records_, step, {}, &StepRecord::step), records_.end()};
}

std::vector<StepRecord> Coordinator::RecordsAfter(uint64_t step) const {
  // It waits so that a record never changes once seen, whatever happens to the evaluation's holder.
  const auto end = records_.end() - (LastRecordIsIncomplete() ? 1 : 0);
  const auto first = std::min(std::ranges::upper_bound(records_, step, {}, &StepRecord::step), end);
  return {first, first + std::min(end - first, kRecordsPerGrant)};
}

}  // namespace mf
