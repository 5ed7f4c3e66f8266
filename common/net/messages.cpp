// The only file that knows Cap'n Proto. Its exceptions end here.
#include "common/net/messages.h"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <kj/exception.h>
#include <kj/io.h>

#include <cstring>

#include "common/net/protocol.capnp.h"

namespace mf {
namespace {

constexpr size_t kHeaderBytesMax = 8 << 20;

// Fields, by struct: Write() and Read() in pairs.

void Write(const std::string& text, capnp::Text::Builder to) {
  std::memcpy(to.begin(), text.data(), text.size());
}
std::string TextOf(capnp::Text::Reader text) { return {text.begin(), text.size()}; }

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
void ReadList(capnp::List<uint64_t>::Reader list, std::vector<uint64_t>& values) {
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

void Write(const ReadState& m, wire::ReadState::Builder w) {
  if (const auto* open = std::get_if<OpenStep>(&m)) {
    Write(*open, w.initOpen());
  } else {
    Write(std::get<FinishedStep>(m), w.initFinished());
  }
}
Status Read(wire::ReadState::Reader w, ReadState& m) {
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

void Write(const SnapshotState& m, wire::SnapshotState::Builder w) {
  WriteList(m.published, [&](unsigned size) { return w.initPublished(size); });
  w.setWriting(m.writing);
}
void Read(wire::SnapshotState::Reader w, SnapshotState& m) {
  ReadList(w.getPublished(), m.published);
  m.writing = w.getWriting();
}

void Write(const SnapshotPlan& m, wire::SnapshotPlan::Builder w) {
  w.setTake(m.take);
  w.setCommon(m.common);
  WriteList(m.discard, [&](unsigned size) { return w.initDiscard(size); });
}
void Read(wire::SnapshotPlan::Reader w, SnapshotPlan& m) {
  m.take = w.getTake();
  m.common = w.getCommon();
  ReadList(w.getDiscard(), m.discard);
}

void Write(const RunState& m, wire::RunState::Builder w) {
  Write(m.finished, w.initFinished());
  WriteText(m.description, [&](unsigned size) { return w.initDescription(size); });
  Write(m.snapshots, w.initSnapshots());
  w.setHadCommon(m.had_common);
}
void Read(wire::RunState::Reader w, RunState& m) {
  Read(w.getFinished(), m.finished);
  m.description = TextOf(w.getDescription());
  Read(w.getSnapshots(), m.snapshots);
  m.had_common = w.getHadCommon();
}

void Write(const StepRecord& m, wire::StepRecord::Builder w) {
  w.setStep(m.step);
  w.setLoss(m.loss);
  w.setLr(m.lr);
  w.setGradNorm(m.grad_norm);
  w.setValLoss(m.val_loss);
  w.setHasValLoss(m.has_val_loss);
  w.setDropped(m.dropped);
}
void Read(wire::StepRecord::Reader w, StepRecord& m) {
  m = {.step = w.getStep(),
       .loss = w.getLoss(),
       .lr = w.getLr(),
       .grad_norm = w.getGradNorm(),
       .val_loss = w.getValLoss(),
       .has_val_loss = w.getHasValLoss(),
       .dropped = w.getDropped()};
}

// Requests.

void Write(const HelloRequest& m, wire::Request::Builder request) {
  auto w = request.initHello();
  w.setProtocol(m.protocol);
  w.setShard(m.shard);
  w.setShards(m.shards);
  WriteText(m.run_id, [&](unsigned size) { return w.initRunId(size); });
  WriteText(m.description, [&](unsigned size) { return w.initDescription(size); });
}
Status Read(wire::HelloRequest::Reader w, HelloRequest& m) {
  m.protocol = w.getProtocol();
  m.shard = w.getShard();
  m.shards = w.getShards();
  m.run_id = TextOf(w.getRunId());
  m.description = TextOf(w.getDescription());
  return Status::Ok();
}

void Write(const StatusRequest&, wire::Request::Builder request) { request.setStatus(); }
Status Read(capnp::Void, StatusRequest&) { return Status::Ok(); }

void Write(const RollbackRequest& m, wire::Request::Builder request) {
  auto w = request.initRollback();
  Write(m.to, w.initTo());
  w.setIncarnation(m.incarnation);
}
Status Read(wire::RollbackRequest::Reader w, RollbackRequest& m) {
  Read(w.getTo(), m.to);
  m.incarnation = w.getIncarnation();
  return Status::Ok();
}

void Write(const PullRequest& m, wire::Request::Builder request) {
  auto w = request.initPull();
  Write(m.at, w.initAt());
  w.setTensor(m.tensor);
  w.setFirstRow(m.first_row);
  w.setRowCount(m.row_count);
}
Status Read(wire::PullRequest::Reader w, PullRequest& m) {
  m.tensor = w.getTensor();
  m.first_row = w.getFirstRow();
  m.row_count = w.getRowCount();
  return Read(w.getAt(), m.at);
}

void Write(const PushRequest& m, wire::Request::Builder request) {
  auto w = request.initPush();
  Write(m.at, w.initAt());
  w.setTensor(m.tensor);
  w.setMicroBatch(m.micro_batch);
  w.setRowCount(m.row_count);
}
Status Read(wire::PushRequest::Reader w, PushRequest& m) {
  Read(w.getAt(), m.at);
  m.tensor = w.getTensor();
  m.micro_batch = w.getMicroBatch();
  m.row_count = w.getRowCount();
  return Status::Ok();
}

void Write(const ForwardRequest& m, wire::Request::Builder request) {
  auto w = request.initForward();
  Write(m.at, w.initAt());
  w.setTensor(m.tensor);
  w.setTokens(m.tokens);
}
Status Read(wire::ForwardRequest::Reader w, ForwardRequest& m) {
  m.tensor = w.getTensor();
  m.tokens = w.getTokens();
  return Read(w.getAt(), m.at);
}

void Write(const BackwardRequest& m, wire::Request::Builder request) {
  auto w = request.initBackward();
  Write(m.at, w.initAt());
  w.setTensor(m.tensor);
  w.setMicroBatch(m.micro_batch);
  w.setTokens(m.tokens);
}
Status Read(wire::BackwardRequest::Reader w, BackwardRequest& m) {
  Read(w.getAt(), m.at);
  m.tensor = w.getTensor();
  m.micro_batch = w.getMicroBatch();
  m.tokens = w.getTokens();
  return Status::Ok();
}

void Write(const ListRowsRequest& m, wire::Request::Builder request) {
  auto w = request.initListRows();
  Write(m.at, w.initAt());
  w.setTensor(m.tensor);
  w.setFirstRow(m.first_row);
  w.setRowCount(m.row_count);
}
Status Read(wire::ListRowsRequest::Reader w, ListRowsRequest& m) {
  Read(w.getAt(), m.at);
  m.tensor = w.getTensor();
  m.first_row = w.getFirstRow();
  m.row_count = w.getRowCount();
  return Status::Ok();
}

void Write(const PrepareRequest& m, wire::Request::Builder request) {
  Write(m.at, request.initPrepare().initAt());
}
Status Read(wire::PrepareRequest::Reader w, PrepareRequest& m) {
  Read(w.getAt(), m.at);
  return Status::Ok();
}

void Write(const ApplyRequest& m, wire::Request::Builder request) {
  auto w = request.initApply();
  Write(m.at, w.initAt());
  w.setLr(m.lr);
  w.setScale(m.scale);
  w.setGradNorm(m.grad_norm);
  Write(m.snapshots, w.initSnapshots());
}
Status Read(wire::ApplyRequest::Reader w, ApplyRequest& m) {
  Read(w.getAt(), m.at);
  m.lr = w.getLr();
  m.scale = w.getScale();
  m.grad_norm = w.getGradNorm();
  Read(w.getSnapshots(), m.snapshots);
  return Status::Ok();
}

void Write(const DropRequest& m, wire::Request::Builder request) {
  auto w = request.initDrop();
  Write(m.at, w.initAt());
  w.setGradNorm(m.grad_norm);
  Write(m.snapshots, w.initSnapshots());
}
Status Read(wire::DropRequest::Reader w, DropRequest& m) {
  Read(w.getAt(), m.at);
  m.grad_norm = w.getGradNorm();
  Read(w.getSnapshots(), m.snapshots);
  return Status::Ok();
}

void Write(const LeaseRequest& m, wire::Request::Builder request) {
  auto w = request.initLease();
  w.setKnownEpoch(m.known_epoch);
  w.setKnownStep(m.known_step);
  WriteList(m.incarnations, [&](unsigned size) { return w.initIncarnations(size); });
}
Status Read(wire::LeaseRequest::Reader w, LeaseRequest& m) {
  m.known_epoch = w.getKnownEpoch();
  m.known_step = w.getKnownStep();
  ReadList(w.getIncarnations(), m.incarnations);
  return Status::Ok();
}

void Write(const RenewRequest& m, wire::Request::Builder request) {
  request.initRenew().setLease(m.lease);
}
Status Read(wire::RenewRequest::Reader w, RenewRequest& m) {
  m.lease = w.getLease();
  return Status::Ok();
}

void Write(const MicroBatchDoneRequest& m, wire::Request::Builder request) {
  auto w = request.initMicroBatchDone();
  Write(m.at, w.initAt());
  w.setMicroBatch(m.micro_batch);
  w.setLossSum(m.loss_sum);
}
Status Read(wire::MicroBatchDoneRequest::Reader w, MicroBatchDoneRequest& m) {
  Read(w.getAt(), m.at);
  m.micro_batch = w.getMicroBatch();
  m.loss_sum = w.getLossSum();
  return Status::Ok();
}

void Write(const StepEndedRequest& m, wire::Request::Builder request) {
  auto w = request.initStepEnded();
  Write(m.at, w.initAt());
  w.setApplied(m.applied);
  w.setGradNorm(m.grad_norm);
  WriteText(m.not_finite, [&](unsigned size) { return w.initNotFinite(size); });
  w.setSnapshot(m.snapshot);
}
Status Read(wire::StepEndedRequest::Reader w, StepEndedRequest& m) {
  Read(w.getAt(), m.at);
  m.applied = w.getApplied();
  m.grad_norm = w.getGradNorm();
  m.not_finite = TextOf(w.getNotFinite());
  m.snapshot = w.getSnapshot();
  return Status::Ok();
}

void Write(const EvaluatedRequest& m, wire::Request::Builder request) {
  auto w = request.initEvaluated();
  Write(m.at, w.initAt());
  w.setValLoss(m.val_loss);
}
Status Read(wire::EvaluatedRequest::Reader w, EvaluatedRequest& m) {
  Read(w.getAt(), m.at);
  m.val_loss = w.getValLoss();
  return Status::Ok();
}

void Write(const RecoveredRequest& m, wire::Request::Builder request) {
  auto w = request.initRecovered();
  Write(m.to, w.initTo());
  w.setRecovered(m.recovered);
  w.setEpochSeen(m.epoch_seen);
  WriteList(m.incarnations, [&](unsigned size) { return w.initIncarnations(size); });
}
Status Read(wire::RecoveredRequest::Reader w, RecoveredRequest& m) {
  Read(w.getTo(), m.to);
  m.recovered = w.getRecovered();
  m.epoch_seen = w.getEpochSeen();
  ReadList(w.getIncarnations(), m.incarnations);
  return Status::Ok();
}

void Write(const GiveBackRequest& m, wire::Request::Builder request) {
  request.initGiveBack().setLease(m.lease);
}
Status Read(wire::GiveBackRequest::Reader w, GiveBackRequest& m) {
  m.lease = w.getLease();
  return Status::Ok();
}

void Write(const BucketsRequest& m, wire::Request::Builder request) {
  request.initBuckets().setTensor(m.tensor);
}
Status Read(wire::BucketsRequest::Reader w, BucketsRequest& m) {
  m.tensor = w.getTensor();
  return Status::Ok();
}

// Replies.

void Write(const std::monostate&, wire::Reply::Builder) {}  // an error, or nothing yet

void Write(const HelloReply& m, wire::Reply::Builder reply) {
  auto w = reply.initHello();
  w.setSession(m.session);
  Write(m.state, w.initState());
}
Status Read(wire::HelloReply::Reader w, HelloReply& m) {
  m.session = w.getSession();
  Read(w.getState(), m.state);
  return Status::Ok();
}

void Write(const StatusReply& m, wire::Reply::Builder reply) {
  Write(m.state, reply.initStatus().initState());
}
Status Read(wire::StatusReply::Reader w, StatusReply& m) {
  Read(w.getState(), m.state);
  return Status::Ok();
}

void Write(const RollbackReply&, wire::Reply::Builder reply) { reply.setRollback(); }
void Write(const PullReply&, wire::Reply::Builder reply) { reply.setPull(); }
void Write(const PushReply&, wire::Reply::Builder reply) { reply.setPush(); }
void Write(const ForwardReply&, wire::Reply::Builder reply) { reply.setForward(); }
void Write(const BackwardReply&, wire::Reply::Builder reply) { reply.setBackward(); }
void Write(const ListRowsReply&, wire::Reply::Builder reply) { reply.setListRows(); }
void Write(const RenewReply&, wire::Reply::Builder reply) { reply.setRenew(); }
void Write(const MicroBatchDoneReply&, wire::Reply::Builder reply) { reply.setMicroBatchDone(); }
void Write(const StepEndedReply&, wire::Reply::Builder reply) { reply.setStepEnded(); }
void Write(const EvaluatedReply&, wire::Reply::Builder reply) { reply.setEvaluated(); }
void Write(const RecoveredReply&, wire::Reply::Builder reply) { reply.setRecovered(); }
void Write(const GiveBackReply&, wire::Reply::Builder reply) { reply.setGiveBack(); }
/// The operations whose replies are payload only, or nothing.
template <class Body>
Status Read(capnp::Void, Body&) {
  static_assert(std::is_empty_v<Body>);
  return Status::Ok();
}

void Write(const PrepareReply& m, wire::Reply::Builder reply) {
  auto w = reply.initPrepare();
  WriteText(m.not_finite, [&](unsigned size) { return w.initNotFinite(size); });
  Write(m.snapshots, w.initSnapshots());
}
Status Read(wire::PrepareReply::Reader w, PrepareReply& m) {
  m.not_finite = TextOf(w.getNotFinite());
  Read(w.getSnapshots(), m.snapshots);
  return Status::Ok();
}

void Write(const ApplyReply& m, wire::Reply::Builder reply) {
  reply.initApply().setApplied(m.applied);
}
Status Read(wire::ApplyReply::Reader w, ApplyReply& m) {
  m.applied = w.getApplied();
  return Status::Ok();
}

void Write(const DropReply& m, wire::Reply::Builder reply) {
  reply.initDrop().setApplied(m.applied);
}
Status Read(wire::DropReply::Reader w, DropReply& m) {
  m.applied = w.getApplied();
  return Status::Ok();
}

void Write(const LeaseReply& m, wire::Reply::Builder reply) {
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
Status Read(wire::LeaseReply::Reader w, LeaseReply& m) {
  if (w.getWork() > static_cast<uint16_t>(Work::kFailed)) return Status::Invalid("unknown work");
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

void Write(const BucketsReply& m, wire::Reply::Builder reply) {
  reply.initBuckets().setStep(m.step);
}
Status Read(wire::BucketsReply::Reader w, BucketsReply& m) {
  m.step = w.getStep();
  return Status::Ok();
}

Status ReadBody(wire::Request::Reader w, RequestBody& body) {
  switch (w.which()) {
    case wire::Request::HELLO:
      return Read(w.getHello(), body.emplace<HelloRequest>());
    case wire::Request::STATUS:
      return Read(w.getStatus(), body.emplace<StatusRequest>());
    case wire::Request::ROLLBACK:
      return Read(w.getRollback(), body.emplace<RollbackRequest>());
    case wire::Request::PULL:
      return Read(w.getPull(), body.emplace<PullRequest>());
    case wire::Request::PUSH:
      return Read(w.getPush(), body.emplace<PushRequest>());
    case wire::Request::FORWARD:
      return Read(w.getForward(), body.emplace<ForwardRequest>());
    case wire::Request::BACKWARD:
      return Read(w.getBackward(), body.emplace<BackwardRequest>());
    case wire::Request::LIST_ROWS:
      return Read(w.getListRows(), body.emplace<ListRowsRequest>());
    case wire::Request::PREPARE:
      return Read(w.getPrepare(), body.emplace<PrepareRequest>());
    case wire::Request::APPLY:
      return Read(w.getApply(), body.emplace<ApplyRequest>());
    case wire::Request::DROP:
      return Read(w.getDrop(), body.emplace<DropRequest>());
    case wire::Request::LEASE:
      return Read(w.getLease(), body.emplace<LeaseRequest>());
    case wire::Request::RENEW:
      return Read(w.getRenew(), body.emplace<RenewRequest>());
    case wire::Request::MICRO_BATCH_DONE:
      return Read(w.getMicroBatchDone(), body.emplace<MicroBatchDoneRequest>());
    case wire::Request::STEP_ENDED:
      return Read(w.getStepEnded(), body.emplace<StepEndedRequest>());
    case wire::Request::EVALUATED:
      return Read(w.getEvaluated(), body.emplace<EvaluatedRequest>());
    case wire::Request::RECOVERED:
      return Read(w.getRecovered(), body.emplace<RecoveredRequest>());
    case wire::Request::GIVE_BACK:
      return Read(w.getGiveBack(), body.emplace<GiveBackRequest>());
    case wire::Request::BUCKETS:
      return Read(w.getBuckets(), body.emplace<BucketsRequest>());
  }
  return Status::Invalid("unknown operation");
}

Status ReadError(wire::Error::Reader w, Reply& reply) {
  if (w.getCode() >= static_cast<uint16_t>(kCodeCount)) return Status::Invalid("unknown code");
  reply.code = static_cast<Code>(w.getCode());
  reply.message = TextOf(w.getMessage());
  return Status::Ok();
}

Status ReadBody(wire::Reply::Reader w, Reply& reply) {
  ReplyBody& body = reply.body;
  switch (w.which()) {
    case wire::Reply::ERROR:
      return ReadError(w.getError(), reply);
    case wire::Reply::HELLO:
      return Read(w.getHello(), body.emplace<HelloReply>());
    case wire::Reply::STATUS:
      return Read(w.getStatus(), body.emplace<StatusReply>());
    case wire::Reply::ROLLBACK:
      return Read(w.getRollback(), body.emplace<RollbackReply>());
    case wire::Reply::PULL:
      return Read(w.getPull(), body.emplace<PullReply>());
    case wire::Reply::PUSH:
      return Read(w.getPush(), body.emplace<PushReply>());
    case wire::Reply::FORWARD:
      return Read(w.getForward(), body.emplace<ForwardReply>());
    case wire::Reply::BACKWARD:
      return Read(w.getBackward(), body.emplace<BackwardReply>());
    case wire::Reply::LIST_ROWS:
      return Read(w.getListRows(), body.emplace<ListRowsReply>());
    case wire::Reply::PREPARE:
      return Read(w.getPrepare(), body.emplace<PrepareReply>());
    case wire::Reply::APPLY:
      return Read(w.getApply(), body.emplace<ApplyReply>());
    case wire::Reply::DROP:
      return Read(w.getDrop(), body.emplace<DropReply>());
    case wire::Reply::LEASE:
      return Read(w.getLease(), body.emplace<LeaseReply>());
    case wire::Reply::RENEW:
      return Read(w.getRenew(), body.emplace<RenewReply>());
    case wire::Reply::MICRO_BATCH_DONE:
      return Read(w.getMicroBatchDone(), body.emplace<MicroBatchDoneReply>());
    case wire::Reply::STEP_ENDED:
      return Read(w.getStepEnded(), body.emplace<StepEndedReply>());
    case wire::Reply::EVALUATED:
      return Read(w.getEvaluated(), body.emplace<EvaluatedReply>());
    case wire::Reply::RECOVERED:
      return Read(w.getRecovered(), body.emplace<RecoveredReply>());
    case wire::Reply::GIVE_BACK:
      return Read(w.getGiveBack(), body.emplace<GiveBackReply>());
    case wire::Reply::BUCKETS:
      return Read(w.getBuckets(), body.emplace<BucketsReply>());
  }
  return Status::Invalid("unknown reply");
}

/// A message under construction, in the memory of a header as small as those of the hot path.
struct Builder {
  capnp::word words[128] = {};
  capnp::MallocMessageBuilder message{kj::arrayPtr(words, sizeof(words) / sizeof(words[0]))};
};

Frame HeaderFrame(capnp::MessageBuilder& builder) {
  const Buffer buffer(capnp::computeSerializedSizeInWords(builder) * sizeof(capnp::word));
  kj::ArrayOutputStream out(
      kj::arrayPtr(reinterpret_cast<kj::byte*>(buffer.data()), buffer.size()));
  capnp::writeMessage(out, builder);
  return buffer;
}

Frames Join(Frame header, const Frames& payload) {
  Frames message;
  message.reserve(payload.size() + 1);
  message.push_back(std::move(header));
  message.insert(message.end(), payload.begin(), payload.end());
  return message;
}

/// Reads the header of `message` by `read`; frames have no alignment, so it is copied to words
/// first.
template <class Root, class Out, class ReadRoot>
Result<Out> Decode(const Frames& message, ReadRoot read) {
  if (message.empty()) return Status::Invalid("empty message");
  const Frame& header = message[0];
  if (header.size() == 0 || header.size() % sizeof(capnp::word) != 0 ||
      header.size() > kHeaderBytesMax) {
    return Status::Invalid("header frame of " + std::to_string(header.size()) + " bytes");
  }
  const Buffer words(header.size());
  std::memcpy(words.data(), header.data(), header.size());
  try {
    capnp::ReaderOptions options;
    const size_t count = words.size() / sizeof(capnp::word);
    options.traversalLimitInWords = 4 * count + 64;
    options.nestingLimit = 8;
    capnp::FlatArrayMessageReader reader(kj::arrayPtr(words.as<const capnp::word>(), count),
                                         options);
    Out out;
    MF_RETURN_IF_ERROR(read(reader.getRoot<Root>(), out));
    out.payload.assign(message.begin() + 1, message.end());
    return out;
  } catch (const kj::Exception& e) {
    return Status::Invalid(std::string("header does not parse: ") + e.getDescription().cStr());
  }
}

}  // namespace

const char* OpName(Op op) {
  switch (op) {
    case Op::kHello:
      return "hello";
    case Op::kStatus:
      return "status";
    case Op::kRollback:
      return "rollback";
    case Op::kPull:
      return "pull";
    case Op::kPush:
      return "push";
    case Op::kForward:
      return "forward";
    case Op::kBackward:
      return "backward";
    case Op::kListRows:
      return "list_rows";
    case Op::kPrepare:
      return "prepare";
    case Op::kApply:
      return "apply";
    case Op::kDrop:
      return "drop";
    case Op::kLease:
      return "lease";
    case Op::kRenew:
      return "renew";
    case Op::kMicroBatchDone:
      return "micro_batch_done";
    case Op::kStepEnded:
      return "step_ended";
    case Op::kEvaluated:
      return "evaluated";
    case Op::kRecovered:
      return "recovered";
    case Op::kGiveBack:
      return "give_back";
    case Op::kBuckets:
      return "buckets";
  }
  return "unknown";
}

Frames Encode(const Request& request) {
  Builder builder;
  auto w = builder.message.initRoot<wire::Request>();
  w.setId(request.id);
  w.setSession(request.session);
  std::visit([&](const auto& body) { Write(body, w); }, request.body);
  return Join(HeaderFrame(builder.message), request.payload);
}

Result<Request> DecodeRequest(const Frames& message) {
  return Decode<wire::Request, Request>(message, [](wire::Request::Reader w, Request& request) {
    request.id = w.getId();
    request.session = w.getSession();
    return ReadBody(w, request.body);
  });
}

Frames Encode(const Reply& reply) {
  Builder builder;
  auto w = builder.message.initRoot<wire::Reply>();
  w.setId(reply.id);
  w.setIncarnation(reply.incarnation);
  if (reply.code == Code::kOk) {
    std::visit([&](const auto& body) { Write(body, w); }, reply.body);
  } else {
    auto error = w.initError();
    error.setCode(static_cast<uint16_t>(reply.code));
    WriteText(reply.message, [&](unsigned size) { return error.initMessage(size); });
  }
  return Join(HeaderFrame(builder.message), reply.payload);
}

Result<Reply> DecodeReply(const Frames& message) {
  return Decode<wire::Reply, Reply>(message, [](wire::Reply::Reader w, Reply& reply) {
    reply.id = w.getId();
    reply.incarnation = w.getIncarnation();
    return ReadBody(w, reply);
  });
}

}  // namespace mf
