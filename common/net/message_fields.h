// The fields of every message, by struct: Write() to the wire form and Read() back, in pairs. For
// common/net/messages.cpp only, which says which struct belongs to which operation.
#pragma once

#include <capnp/message.h>

#include <cstring>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "common/net/messages.h"
#include "common/net/protocol.capnp.h"

namespace mf {

inline void Write(const std::string& text, capnp::Text::Builder to) {
  std::memcpy(to.begin(), text.data(), text.size());
}
inline std::string TextOf(capnp::Text::Reader text) { return {text.begin(), text.size()}; }

template <class Builder>
void WriteText(const std::string& text, Builder init) {
  if (!text.empty()) Write(text, init(static_cast<unsigned>(text.size())));
}
template <class Builder>
void WriteList(const std::vector<uint64_t>& values, Builder init) {
  if (values.empty()) return;
  auto list = init(static_cast<unsigned>(values.size()));
  for (unsigned i = 0; i < list.size(); ++i) list.set(i, values[i]);
}
inline void ReadList(capnp::List<uint64_t>::Reader list, std::vector<uint64_t>& values) {
  for (const uint64_t value : list) values.push_back(value);
}

template <class Step>
void Write(const Step& m, wire::Step::Builder w) {
  w.setEpoch(m.epoch);
  w.setStep(m.step);
}
template <class Step>
void Read(wire::Step::Reader w, Step& m) {
  m = {w.getEpoch(), w.getStep()};
}

inline void Write(const ReadState& m, wire::ReadState::Builder w) {
  if (const auto* open = std::get_if<OpenStep>(&m)) {
    Write(*open, w.initOpen());
  } else {
    Write(std::get<FinishedStep>(m), w.initFinished());
  }
}
inline Status Read(wire::ReadState::Reader w, ReadState& m) {
  switch (w.which()) {
    case wire::ReadState::FINISHED:
      Read(w.getFinished(), m.emplace<FinishedStep>());
      return Status::Ok();
    case wire::ReadState::OPEN:
      Read(w.getOpen(), m.emplace<OpenStep>());
      return Status::Ok();
  }
  return Status::Invalid("unknown state to read");
}

inline void Write(const SnapshotState& m, wire::SnapshotState::Builder w) {
  WriteList(m.published, [&](unsigned size) { return w.initPublished(size); });
  w.setWriting(m.writing);
}
inline void Read(wire::SnapshotState::Reader w, SnapshotState& m) {
  ReadList(w.getPublished(), m.published);
  m.writing = w.getWriting();
}

inline void Write(const SnapshotPlan& m, wire::SnapshotPlan::Builder w) {
  w.setTake(m.take);
  w.setCommon(m.common);
  WriteList(m.discard, [&](unsigned size) { return w.initDiscard(size); });
}
inline void Read(wire::SnapshotPlan::Reader w, SnapshotPlan& m) {
  m.take = w.getTake();
  m.common = w.getCommon();
  ReadList(w.getDiscard(), m.discard);
}

inline void Write(const RunState& m, wire::RunState::Builder w) {
  Write(m.finished, w.initFinished());
  WriteText(m.description, [&](unsigned size) { return w.initDescription(size); });
  Write(m.snapshots, w.initSnapshots());
  w.setHadCommon(m.had_common);
  WriteText(m.doing, [&](unsigned size) { return w.initDoing(size); });
  WriteList(m.readable, [&](unsigned size) { return w.initReadable(size); });
}
inline void Read(wire::RunState::Reader w, RunState& m) {
  Read(w.getFinished(), m.finished);
  m.description = TextOf(w.getDescription());
  Read(w.getSnapshots(), m.snapshots);
  m.had_common = w.getHadCommon();
  m.doing = TextOf(w.getDoing());
  ReadList(w.getReadable(), m.readable);
}

inline void Write(const StepRecord& m, wire::StepRecord::Builder w) {
  w.setStep(m.step);
  w.setLoss(m.loss);
  w.setLr(m.lr);
  w.setGradNorm(m.grad_norm);
  w.setValLoss(m.val_loss);
  w.setHasValLoss(m.has_val_loss);
  w.setDropped(m.dropped);
}
inline void Read(wire::StepRecord::Reader w, StepRecord& m) {
  m = {.step = w.getStep(),
       .loss = w.getLoss(),
       .lr = w.getLr(),
       .grad_norm = w.getGradNorm(),
       .val_loss = w.getValLoss(),
       .has_val_loss = w.getHasValLoss(),
       .dropped = w.getDropped()};
}

// Requests.

inline void Write(const HelloRequest& m, wire::Request::Builder request) {
  auto w = request.initHello();
  w.setProtocol(m.protocol);
  w.setShard(m.shard);
  w.setShards(m.shards);
  WriteText(m.description, [&](unsigned size) { return w.initDescription(size); });
}
inline Status Read(wire::HelloRequest::Reader w, HelloRequest& m) {
  m.protocol = w.getProtocol();
  m.shard = w.getShard();
  m.shards = w.getShards();
  m.description = TextOf(w.getDescription());
  return Status::Ok();
}

inline void Write(const StatusRequest&, wire::Request::Builder request) { request.setStatus(); }
inline Status Read(capnp::Void, StatusRequest&) { return Status::Ok(); }

inline void Write(const RollbackRequest& m, wire::Request::Builder request) {
  auto w = request.initRollback();
  Write(m.to, w.initTo());
  w.setIncarnation(m.incarnation);
}
inline Status Read(wire::RollbackRequest::Reader w, RollbackRequest& m) {
  Read(w.getTo(), m.to);
  m.incarnation = w.getIncarnation();
  return Status::Ok();
}

inline void Write(const PullRequest& m, wire::Request::Builder request) {
  auto w = request.initPull();
  Write(m.at, w.initAt());
  w.setTensor(m.tensor);
  w.setFirstRow(m.first_row);
  w.setRowCount(m.row_count);
}
inline Status Read(wire::PullRequest::Reader w, PullRequest& m) {
  m.tensor = w.getTensor();
  m.first_row = w.getFirstRow();
  m.row_count = w.getRowCount();
  return Read(w.getAt(), m.at);
}

inline void Write(const PushRequest& m, wire::Request::Builder request) {
  auto w = request.initPush();
  Write(m.at, w.initAt());
  w.setTensor(m.tensor);
  w.setMicroBatch(m.micro_batch);
  w.setRowCount(m.row_count);
}
inline Status Read(wire::PushRequest::Reader w, PushRequest& m) {
  Read(w.getAt(), m.at);
  m.tensor = w.getTensor();
  m.micro_batch = w.getMicroBatch();
  m.row_count = w.getRowCount();
  return Status::Ok();
}

inline void Write(const ForwardRequest& m, wire::Request::Builder request) {
  auto w = request.initForward();
  Write(m.at, w.initAt());
  w.setTensor(m.tensor);
  w.setTokens(m.tokens);
}
inline Status Read(wire::ForwardRequest::Reader w, ForwardRequest& m) {
  m.tensor = w.getTensor();
  m.tokens = w.getTokens();
  return Read(w.getAt(), m.at);
}

inline void Write(const BackwardRequest& m, wire::Request::Builder request) {
  auto w = request.initBackward();
  Write(m.at, w.initAt());
  w.setTensor(m.tensor);
  w.setMicroBatch(m.micro_batch);
  w.setTokens(m.tokens);
}
inline Status Read(wire::BackwardRequest::Reader w, BackwardRequest& m) {
  Read(w.getAt(), m.at);
  m.tensor = w.getTensor();
  m.micro_batch = w.getMicroBatch();
  m.tokens = w.getTokens();
  return Status::Ok();
}

inline void Write(const ListRowsRequest& m, wire::Request::Builder request) {
  auto w = request.initListRows();
  Write(m.at, w.initAt());
  w.setTensor(m.tensor);
  w.setFirstRow(m.first_row);
  w.setRowCount(m.row_count);
}
inline Status Read(wire::ListRowsRequest::Reader w, ListRowsRequest& m) {
  Read(w.getAt(), m.at);
  m.tensor = w.getTensor();
  m.first_row = w.getFirstRow();
  m.row_count = w.getRowCount();
  return Status::Ok();
}

inline void Write(const PrepareRequest& m, wire::Request::Builder request) {
  Write(m.at, request.initPrepare().initAt());
}
inline Status Read(wire::PrepareRequest::Reader w, PrepareRequest& m) {
  Read(w.getAt(), m.at);
  return Status::Ok();
}

inline void Write(const ApplyRequest& m, wire::Request::Builder request) {
  auto w = request.initApply();
  Write(m.at, w.initAt());
  w.setLr(m.lr);
  w.setScale(m.scale);
  w.setGradNorm(m.grad_norm);
  Write(m.snapshots, w.initSnapshots());
}
inline Status Read(wire::ApplyRequest::Reader w, ApplyRequest& m) {
  Read(w.getAt(), m.at);
  m.lr = w.getLr();
  m.scale = w.getScale();
  m.grad_norm = w.getGradNorm();
  Read(w.getSnapshots(), m.snapshots);
  return Status::Ok();
}

inline void Write(const DropRequest& m, wire::Request::Builder request) {
  auto w = request.initDrop();
  Write(m.at, w.initAt());
  w.setGradNorm(m.grad_norm);
  Write(m.snapshots, w.initSnapshots());
}
inline Status Read(wire::DropRequest::Reader w, DropRequest& m) {
  Read(w.getAt(), m.at);
  m.grad_norm = w.getGradNorm();
  Read(w.getSnapshots(), m.snapshots);
  return Status::Ok();
}

inline void Write(const LeaseRequest& m, wire::Request::Builder request) {
  auto w = request.initLease();
  w.setKnownEpoch(m.known_epoch);
  w.setKnownStep(m.known_step);
  WriteList(m.incarnations, [&](unsigned size) { return w.initIncarnations(size); });
}
inline Status Read(wire::LeaseRequest::Reader w, LeaseRequest& m) {
  m.known_epoch = w.getKnownEpoch();
  m.known_step = w.getKnownStep();
  ReadList(w.getIncarnations(), m.incarnations);
  return Status::Ok();
}

inline void Write(const RenewRequest& m, wire::Request::Builder request) {
  request.initRenew().setLease(m.lease);
}
inline Status Read(wire::RenewRequest::Reader w, RenewRequest& m) {
  m.lease = w.getLease();
  return Status::Ok();
}

inline void Write(const MicroBatchDoneRequest& m, wire::Request::Builder request) {
  auto w = request.initMicroBatchDone();
  Write(m.at, w.initAt());
  w.setMicroBatch(m.micro_batch);
  w.setLossSum(m.loss_sum);
}
inline Status Read(wire::MicroBatchDoneRequest::Reader w, MicroBatchDoneRequest& m) {
  Read(w.getAt(), m.at);
  m.micro_batch = w.getMicroBatch();
  m.loss_sum = w.getLossSum();
  return Status::Ok();
}

inline void Write(const StepEndedRequest& m, wire::Request::Builder request) {
  auto w = request.initStepEnded();
  Write(m.at, w.initAt());
  w.setApplied(m.applied);
  w.setGradNorm(m.grad_norm);
  WriteText(m.not_finite, [&](unsigned size) { return w.initNotFinite(size); });
  w.setSnapshot(m.snapshot);
}
inline Status Read(wire::StepEndedRequest::Reader w, StepEndedRequest& m) {
  Read(w.getAt(), m.at);
  m.applied = w.getApplied();
  m.grad_norm = w.getGradNorm();
  m.not_finite = TextOf(w.getNotFinite());
  m.snapshot = w.getSnapshot();
  return Status::Ok();
}

inline void Write(const EvaluatedRequest& m, wire::Request::Builder request) {
  auto w = request.initEvaluated();
  Write(m.at, w.initAt());
  w.setValLoss(m.val_loss);
}
inline Status Read(wire::EvaluatedRequest::Reader w, EvaluatedRequest& m) {
  Read(w.getAt(), m.at);
  m.val_loss = w.getValLoss();
  return Status::Ok();
}

inline void Write(const RecoveredRequest& m, wire::Request::Builder request) {
  auto w = request.initRecovered();
  Write(m.to, w.initTo());
  w.setRecovered(m.recovered);
  w.setEpochSeen(m.epoch_seen);
  WriteList(m.incarnations, [&](unsigned size) { return w.initIncarnations(size); });
}
inline Status Read(wire::RecoveredRequest::Reader w, RecoveredRequest& m) {
  Read(w.getTo(), m.to);
  m.recovered = w.getRecovered();
  m.epoch_seen = w.getEpochSeen();
  ReadList(w.getIncarnations(), m.incarnations);
  return Status::Ok();
}

inline void Write(const GiveBackRequest& m, wire::Request::Builder request) {
  request.initGiveBack().setLease(m.lease);
}
inline Status Read(wire::GiveBackRequest::Reader w, GiveBackRequest& m) {
  m.lease = w.getLease();
  return Status::Ok();
}

inline void Write(const BucketsRequest& m, wire::Request::Builder request) {
  request.initBuckets().setTensor(m.tensor);
}
inline Status Read(wire::BucketsRequest::Reader w, BucketsRequest& m) {
  m.tensor = w.getTensor();
  return Status::Ok();
}

inline void Write(const ListRunsRequest&, wire::Request::Builder request) { request.setListRuns(); }
inline Status Read(capnp::Void, ListRunsRequest&) { return Status::Ok(); }

inline void Write(const DeleteRunRequest& m, wire::Request::Builder request) {
  auto w = request.initDeleteRun();
  WriteText(m.id, [&](unsigned size) { return w.initId(size); });
}
inline Status Read(wire::DeleteRunRequest::Reader w, DeleteRunRequest& m) {
  m.id = TextOf(w.getId());
  return Status::Ok();
}

inline void Write(const SaveRequest& m, wire::Request::Builder request) {
  auto w = request.initSave();
  w.setStep(m.step);
  w.setByAll(m.by_all);
}
inline Status Read(wire::SaveRequest::Reader w, SaveRequest& m) {
  m.step = w.getStep();
  m.by_all = w.getByAll();
  return Status::Ok();
}

inline void Write(const LeaveRequest&, wire::Request::Builder request) { request.setLeave(); }
inline Status Read(capnp::Void, LeaveRequest&) { return Status::Ok(); }

inline void Write(const StopRequest& m, wire::Request::Builder request) {
  auto w = request.initStop();
  WriteText(m.run, [&](unsigned size) { return w.initRun(size); });
}
inline Status Read(wire::StopRequest::Reader w, StopRequest& m) {
  m.run = TextOf(w.getRun());
  return Status::Ok();
}

inline void Write(const InitialiseRequest& m, wire::Request::Builder request) {
  auto w = request.initInitialise();
  w.setAttempt(m.attempt);
  w.setPart(m.part);
  w.setLast(m.last);
  w.setTensor(m.tensor);
}
inline Status Read(wire::InitialiseRequest::Reader w, InitialiseRequest& m) {
  m = {
      .attempt = w.getAttempt(), .part = w.getPart(), .last = w.getLast(), .tensor = w.getTensor()};
  return Status::Ok();
}

// Replies.

inline void Write(const std::monostate&, wire::Reply::Builder) {}  // an error, or nothing yet

inline void Write(const HelloReply& m, wire::Reply::Builder reply) {
  auto w = reply.initHello();
  w.setSession(m.session);
  Write(m.state, w.initState());
}
inline Status Read(wire::HelloReply::Reader w, HelloReply& m) {
  m.session = w.getSession();
  Read(w.getState(), m.state);
  return Status::Ok();
}

inline void Write(const StatusReply& m, wire::Reply::Builder reply) {
  Write(m.state, reply.initStatus().initState());
}
inline Status Read(wire::StatusReply::Reader w, StatusReply& m) {
  Read(w.getState(), m.state);
  return Status::Ok();
}

inline void Write(const RollbackReply&, wire::Reply::Builder reply) { reply.setRollback(); }
inline void Write(const PullReply&, wire::Reply::Builder reply) { reply.setPull(); }
inline void Write(const PushReply&, wire::Reply::Builder reply) { reply.setPush(); }
inline void Write(const ForwardReply&, wire::Reply::Builder reply) { reply.setForward(); }
inline void Write(const BackwardReply&, wire::Reply::Builder reply) { reply.setBackward(); }
inline void Write(const ListRowsReply&, wire::Reply::Builder reply) { reply.setListRows(); }
inline void Write(const RenewReply&, wire::Reply::Builder reply) { reply.setRenew(); }
inline void Write(const MicroBatchDoneReply&, wire::Reply::Builder reply) {
  reply.setMicroBatchDone();
}
inline void Write(const StepEndedReply&, wire::Reply::Builder reply) { reply.setStepEnded(); }
inline void Write(const EvaluatedReply&, wire::Reply::Builder reply) { reply.setEvaluated(); }
inline void Write(const RecoveredReply&, wire::Reply::Builder reply) { reply.setRecovered(); }
inline void Write(const GiveBackReply&, wire::Reply::Builder reply) { reply.setGiveBack(); }
/// The operations whose replies are payload only, or nothing.
template <class Body>
Status Read(capnp::Void, Body&) {
  static_assert(std::is_empty_v<Body>);
  return Status::Ok();
}

inline void Write(const PrepareReply& m, wire::Reply::Builder reply) {
  auto w = reply.initPrepare();
  WriteText(m.not_finite, [&](unsigned size) { return w.initNotFinite(size); });
  Write(m.snapshots, w.initSnapshots());
}
inline Status Read(wire::PrepareReply::Reader w, PrepareReply& m) {
  m.not_finite = TextOf(w.getNotFinite());
  Read(w.getSnapshots(), m.snapshots);
  return Status::Ok();
}

inline void Write(const ApplyReply& m, wire::Reply::Builder reply) {
  reply.initApply().setApplied(m.applied);
}
inline Status Read(wire::ApplyReply::Reader w, ApplyReply& m) {
  m.applied = w.getApplied();
  return Status::Ok();
}

inline void Write(const DropReply& m, wire::Reply::Builder reply) {
  reply.initDrop().setApplied(m.applied);
}
inline Status Read(wire::DropReply::Reader w, DropReply& m) {
  m.applied = w.getApplied();
  return Status::Ok();
}

inline void Write(const LeaseReply& m, wire::Reply::Builder reply) {
  auto w = reply.initLease();
  w.setWork(static_cast<uint16_t>(m.work));
  w.setEpoch(m.epoch);
  w.setStep(m.step);
  w.setMicroBatch(m.micro_batch);
  w.setLease(m.lease);
  w.setLeaseSeconds(m.lease_seconds);
  w.setLr(m.lr);
  w.setClip(m.clip);
  w.setSnapshotDue(static_cast<uint16_t>(m.snapshot_due));
  w.setSnapshotKeep(m.snapshot_keep);
  WriteText(m.failure, [&](unsigned size) { return w.initFailure(size); });
  if (m.records.empty()) return;
  auto list = w.initRecords(static_cast<unsigned>(m.records.size()));
  for (unsigned i = 0; i < list.size(); ++i) Write(m.records[i], list[i]);
}
inline Status Read(wire::LeaseReply::Reader w, LeaseReply& m) {
  if (w.getWork() > static_cast<uint16_t>(Work::kStopped)) return Status::Invalid("unknown work");
  if (w.getSnapshotDue() > static_cast<uint16_t>(SnapshotDue::kNow)) {
    return Status::Invalid("unknown snapshot order");
  }
  m.work = static_cast<Work>(w.getWork());
  m.epoch = w.getEpoch();
  m.step = w.getStep();
  m.micro_batch = w.getMicroBatch();
  m.lease = w.getLease();
  m.lease_seconds = w.getLeaseSeconds();
  m.lr = w.getLr();
  m.clip = w.getClip();
  m.snapshot_due = static_cast<SnapshotDue>(w.getSnapshotDue());
  m.snapshot_keep = w.getSnapshotKeep();
  m.failure = TextOf(w.getFailure());
  for (const auto record : w.getRecords()) Read(record, m.records.emplace_back());
  return Status::Ok();
}

inline void Write(const BucketsReply& m, wire::Reply::Builder reply) {
  reply.initBuckets().setStep(m.step);
}
inline Status Read(wire::BucketsReply::Reader w, BucketsReply& m) {
  m.step = w.getStep();
  return Status::Ok();
}

inline void Write(const StoredRun& m, wire::StoredRun::Builder w) {
  WriteText(m.id, [&](unsigned size) { return w.initId(size); });
  WriteText(m.about, [&](unsigned size) { return w.initAbout(size); });
  w.setSteps(m.steps);
  w.setNewest(m.newest);
  w.setActive(m.active);
}
inline void Read(wire::StoredRun::Reader w, StoredRun& m) {
  m = {.id = TextOf(w.getId()),
       .about = TextOf(w.getAbout()),
       .steps = w.getSteps(),
       .newest = w.getNewest(),
       .active = w.getActive()};
}

inline void Write(const ListRunsReply& m, wire::Reply::Builder reply) {
  auto w = reply.initListRuns();
  if (m.runs.empty()) return;
  auto list = w.initRuns(static_cast<unsigned>(m.runs.size()));
  for (unsigned i = 0; i < list.size(); ++i) Write(m.runs[i], list[i]);
}
inline Status Read(wire::ListRunsReply::Reader w, ListRunsReply& m) {
  for (const auto run : w.getRuns()) Read(run, m.runs.emplace_back());
  return Status::Ok();
}

inline void Write(const DeleteRunReply&, wire::Reply::Builder reply) { reply.setDeleteRun(); }

inline void Write(const SaveReply& m, wire::Reply::Builder reply) {
  Write(m.snapshots, reply.initSave().initSnapshots());
}
inline Status Read(wire::SaveReply::Reader w, SaveReply& m) {
  Read(w.getSnapshots(), m.snapshots);
  return Status::Ok();
}

inline void Write(const LeaveReply& m, wire::Reply::Builder reply) {
  auto w = reply.initLeave();
  w.setWorkers(m.workers);
  Write(m.at, w.initAt());
}
inline Status Read(wire::LeaveReply::Reader w, LeaveReply& m) {
  m.workers = w.getWorkers();
  Read(w.getAt(), m.at);
  return Status::Ok();
}

inline void Write(const StopReply& m, wire::Reply::Builder reply) {
  auto w = reply.initStop();
  w.setWorkers(m.workers);
  Write(m.at, w.initAt());
}
inline Status Read(wire::StopReply::Reader w, StopReply& m) {
  m.workers = w.getWorkers();
  Read(w.getAt(), m.at);
  return Status::Ok();
}

inline void Write(const InitialiseReply& m, wire::Reply::Builder reply) {
  reply.initInitialise().setThere(m.there);
}
inline Status Read(wire::InitialiseReply::Reader w, InitialiseReply& m) {
  m.there = w.getThere();
  return Status::Ok();
}

}  // namespace mf
