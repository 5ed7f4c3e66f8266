// What happened how often: in one schedule and in all. A simulation that never meets a kind of
// event tests nothing about it, so every one of them must be seen.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace mf::simulation {

enum class Seen {
  // Faults.
  kRequestDropped,
  kReplyDropped,
  kDuplicated,
  kSlowMessage,
  kPartition,
  kCutMessage,
  kServerKilled,
  kServer0Killed,
  kKilledBeforeReplies,
  kServerPaused,
  kServerEnded,
  kWorkerKilled,
  kWorkerPaused,
  kWorkerLeft,
  kDeliveredToSuccessor,
  kSnapshotDamaged,
  kLeaseNotRenewed,
  kThroughCodec,
  kMemoryEnded,
  // What came of them.
  kResend,
  kDeadline,
  kNotJoined,
  kLeaseExpired,
  kRecoverLeased,
  kSecondRecoverHolder,
  kRecoverHolderWasLate,
  kRollbackToZero,
  kRollbackToSnapshot,
  kRollbackRepeated,
  kRollbackFencedByEpoch,
  kRollbackFencedByIncarnation,
  kRollbackFoundDamage,
  kApplied,
  kDropped,
  kEndRepeated,
  kEndFencedByEpoch,
  kEndTooLate,
  kPrepareRepeated,
  kPrepareFenced,
  kContributionFenced,
  kContributionStale,
  kStepEndedRefused,
  kEvaluated,
  kEvaluationAfterRecovery,
  kSnapshotPublished,
  kSnapshotFailed,
  kSnapshotLost,
  kDiscardedOld,
  kDiscardedUncommon,
  kRecoveredAfterTheEnd,
  kSavedAtTheEnd,
  kSavedByLastWorker,
  kSavedForRecovery,
  kStateLost,
  kCount,
};

inline constexpr std::array<const char*, static_cast<size_t>(Seen::kCount)> kSeenNames = {
    "requests dropped",
    "replies dropped",
    "messages duplicated",
    "messages late by up to many leases",
    "partitions",
    "messages lost to partitions",
    "servers killed",
    "server 0 killed",
    "servers killed between work and answer",
    "servers held",
    "servers told to end",
    "workers killed",
    "workers held",
    "workers told to end",
    "requests delivered to a successor",
    "snapshots damaged",
    "leases not renewed by their holders",
    "messages through the codec",
    "pieces of work in which memory ended",
    "requests sent again",
    "calls given up at the deadline",
    "requests from workers unknown to the server",
    "leases expired",
    "recoveries leased",
    "recoveries leased while another holder was at it",
    "recover holders that met servers in a newer epoch",
    "rollbacks to step 0",
    "rollbacks to a snapshot",
    "rollbacks repeated",
    "rollbacks fenced by the epoch",
    "rollbacks fenced by the incarnation",
    "rollbacks that met a damaged snapshot",
    "steps applied",
    "steps dropped",
    "ends of steps repeated",
    "ends of steps fenced by the epoch",
    "ends of steps of an unrecovered server or too early",
    "prepares repeated",
    "prepares refused",
    "contributions fenced by the epoch",
    "contributions after the step's end",
    "ends of steps that the coordinator did not want",
    "evaluations",
    "evaluations leased again after a recovery",
    "snapshots published",
    "snapshots failed",
    "snapshots lost or given up",
    "old snapshots discarded",
    "uncommon snapshots discarded",
    "runs recovered after their end",
    "last steps saved by servers told to end",
    "last steps saved for the last worker",
    "steps saved by servers for the recovery of others",
    "servers that lost their state as memory ended",
};

class Tally {
 public:
  void Add(Seen what) { ++counts_[static_cast<size_t>(what)]; }
  uint64_t operator[](Seen what) const { return counts_[static_cast<size_t>(what)]; }
  void Add(const Tally& other) {
    for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
  }
  const std::array<uint64_t, static_cast<size_t>(Seen::kCount)>& counts() const { return counts_; }

 private:
  std::array<uint64_t, static_cast<size_t>(Seen::kCount)> counts_ = {};
};

}  // namespace mf::simulation
