// The work coordinator of server 0 (DESIGN 2.5-2.7): leases micro-batches, commit, evaluation and
// recovery to whichever worker asks, one phase after the other. A state machine: (message, now) ->
// grants. No socket, thread, clock or file inside; all times are seconds on the caller's clock.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/net/messages.h"
#include "common/run/run_description.h"

namespace mf {

/// What an asking worker gets.
struct Grant : LeaseReply {
  uint64_t ticket = 0;      // the ask that this answers
  uint64_t known_step = 0;  // its records are those after this step
};

class Coordinator {
 public:
  /// `boot_count` of this server, made durable before it listens: epochs are boot_count << 32 |
  /// counter.
  Coordinator(const RunRules& rules, uint64_t boot_count);

  using Grants = std::vector<Grant>;

  /// `session` asks for work; the ask is waiting until there is some, but at most kWaitSecondsMax
  /// (then kWait). Of those that are waiting the session with the fewest leases is served first,
  /// then the lowest ticket; tickets rise. `known_step`: the last step whose record the asker has.
  Grants Ask(uint64_t ticket, uint64_t session, uint64_t known_step, double now);
  /// Extends a lease; kStale if it is not held any more.
  Status Renew(uint64_t lease, double now);
  /// The holder cannot do the work (a server was in recovery, say): somebody else may.
  Grants GiveBack(uint64_t lease, double now);
  /// The session ends: its leases are anybody's, and it gets nothing but Work::kStopped.
  Grants Leave(uint64_t session, double now);
  /// From now on these sessions get nothing but Work::kStopped, and while the servers are to be
  /// recovered Work::kRecover.
  Grants Stop(const std::set<uint64_t>& sessions, double now);
  // What workers report of the work that they were granted (see the messages).
  /// Repeats and second leases are ignored.
  Status MicroBatchDone(const MicroBatchDoneRequest& done, double now, Grants* grants);
  Status StepEnded(const StepEndedRequest& ended, double now, Grants* grants);
  Status Evaluated(const EvaluatedRequest& evaluated, double now, Grants* grants);
  Status Recovered(const RecoveredRequest& recovered, double now, Grants* grants);

  /// What the coordinator makes of `incarnations`, the servers' as a worker knows them.
  enum class Incarnations {
    kKnown,           // those of the last recovery, or nothing is known yet
    kWorkerIsBehind,  // a server has been recovered since in a newer incarnation: say hello again
    kNewServer,       // a server was restarted and has lost its state: StartRecovery()
  };
  Incarnations Compare(const std::vector<uint64_t>& incarnations) const;
  /// A server has an unknown incarnation, or was lost: recovery is leased.
  Grants StartRecovery(double now);
  /// Time has passed: leases end, waiting asks are answered.
  Grants Tick(double now);

  /// What is being worked on: recover, micro_batches, commit, evaluate, finished or failed.
  const char* phase() const;
  uint64_t epoch() const { return epoch_; }
  uint64_t step() const { return step_; }
  /// The run's last finished step; epoch 0 while the servers are being recovered.
  FinishedStep finished_step() const;
  /// The record of the open step, all of whose micro-batches are in, if it ends like this.
  StepRecord RecordIfEnded(bool applied, double grad_norm) const;
  /// What a snapshot of `step` finished steps knows of them, unless more is known here.
  void Restore(uint64_t step, const std::vector<StepRecord>& records);
  uint64_t leases_expired() const { return leases_expired_; }
  bool finished() const { return phase_ == Phase::kFinished; }
  /// A server was started again, and no worker has recovered it yet.
  bool recovers() const { return phase_ == Phase::kRecover; }
  /// Whoever asks is told that the run has ended, and how: workers then end by themselves.
  bool over() const { return phase_ == Phase::kFinished || phase_ == Phase::kFailed; }
  const std::deque<StepRecord>& records() const { return records_; }
  /// Of `step` and all later ones, as far as they go.
  std::vector<StepRecord> RecordsFrom(uint64_t step) const;
  /// For one answer: some of those after this step that will not change any more.
  std::vector<StepRecord> RecordsAfter(uint64_t step) const;

  static constexpr double kWaitSecondsMax = 1.0;
  static constexpr int kDropsInARowMax = 10;

 private:
  enum class Phase { kRecover, kMicroBatches, kCommit, kEvaluate, kFinished, kFailed };
  struct Waiting {
    uint64_t ticket, session, known_step;
    double until;
    size_t held = 0;  // leases of the session, while asks are served
  };
  struct Lease {
    uint64_t id = 0;
    uint64_t session = 0;
    double until = 0;
    double since = 0;
  };
  struct MicroBatch {
    bool done = false;
    double loss_sum = 0;
    bool second_given = false;
    std::vector<Lease> leases;
  };

  Grants Serve(double now);
  bool ServeNext(double now, Grants* grants);
  bool Serve(const Waiting& waiting, double now, Grant* grant);
  void Answer(const Waiting& waiting, Grant grant, Grants* grants) const;
  bool GrantMicroBatch(const Waiting& waiting, double now, Grant* grant);
  bool GrantExclusive(const Waiting& waiting, Work work, double now, Grant* grant);
  /// Of micro-batches.
  size_t LeasesOf(uint64_t session) const;
  Lease NewLease(uint64_t session, double now);
  Status CheckStep(uint64_t epoch, uint64_t step, Phase phase) const;
  void Expire(double now);
  void OpenStep(uint64_t step);
  void EnterPhase(Phase phase);
  void FailAfterDrops(const std::string& not_finite, uint64_t step);
  SnapshotDue DueAfter(uint64_t step, double now) const;
  double MedianSeconds() const;
  /// `step` is one after which there is an evaluation.
  bool EvaluationFollows(uint64_t step) const;
  /// The last record waits for its evaluation.
  bool LastRecordIsIncomplete() const;

  const RunRules rules_;
  const uint64_t boot_count_;
  Phase phase_ = Phase::kRecover;
  uint64_t epoch_counter_ = 0;
  uint64_t epoch_ = 0;  // of the last recovery leased
  uint64_t step_ = 0;   // the open step
  uint64_t next_lease_ = 1;
  std::vector<Waiting> waiting_;
  std::vector<MicroBatch> micro_batches_;
  std::optional<Lease> exclusive_lease_;  // commit, evaluate, recover: one holder at a time
  double step_lr_ = 0;
  std::optional<SnapshotDue> step_due_;  // once commit was leased
  uint64_t snapshot_step_ = 0;           // of the last snapshot begun, or rolled back to
  double snapshot_time_ = 0;
  std::deque<StepRecord> records_;  // of all steps: it grows in place, a vector would move
  std::deque<double> durations_;    // of the last finished micro-batches
  int drops_in_a_row_ = 0;
  std::string failure_;
  uint64_t leases_expired_ = 0;
  std::vector<uint64_t> incarnations_;       // of the servers at the last recovery
  std::set<uint64_t> retired_incarnations_;  // known once, replaced since
  std::set<uint64_t> stopped_, left_;        // sessions
};

}  // namespace mf
