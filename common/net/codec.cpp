// The only file that knows Cap'n Proto. Its exceptions end here.
#include <capnp/message.h>
#include <capnp/serialize.h>
#include <kj/exception.h>
#include <kj/io.h>

#include <cstring>

#include "common/net/messages.h"
#include "common/net/protocol.capnp.h"

namespace mf {
namespace {

constexpr size_t kHeaderBytesMax = 8 << 20;

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

template <class List>
void SetList(List list, const std::vector<uint64_t>& values) {
  for (unsigned i = 0; i < list.size(); ++i) list.set(i, values[i]);
}

/// Reads the header of `message` by `read`; frames have no alignment, so it is copied to words
/// first.
template <class Root, class Out, class Read>
Result<Out> Decode(const Frames& message, Read read) {
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
    const Status status = read(reader.getRoot<Root>(), out);
    if (!status.ok()) return status;
    out.payload.assign(message.begin() + 1, message.end());
    return out;
  } catch (const kj::Exception& e) {
    return Status::Invalid(std::string("header does not parse: ") + e.getDescription().cStr());
  }
}

}  // namespace

const char* OpName(Op op) {
  static constexpr const char* kNames[kOpCount] = {
      "hello",      "status",    "rollback",  "pull",      "push",   "forward", "backward",
      "list_rows",  "prepare",   "apply",     "drop",      "lease",  "renew",   "micro_batch_done",
      "step_ended", "evaluated", "recovered", "give_back", "buckets"};
  return kNames[static_cast<int>(op)];
}

Frames Encode(const Request& r) {
  Builder builder;
  auto w = builder.message.initRoot<wire::Request>();
  w.setId(r.id);
  w.setSession(r.session);
  w.setOp(static_cast<wire::Op>(r.op));
  w.setEpoch(r.epoch);
  w.setStep(r.step);
  w.setTensor(r.tensor);
  w.setMicroBatch(r.micro_batch);
  w.setTokens(r.tokens);
  w.setTraining(r.training);
  w.setFirstRow(r.first_row);
  w.setRowCount(r.row_count);
  w.setLease(r.lease);
  w.setLr(r.lr);
  w.setScale(r.scale);
  w.setValue(r.value);
  w.setApplied(r.applied);
  w.setProtocol(r.protocol);
  w.setShard(r.shard);
  w.setShards(r.shards);
  if (!r.text.empty()) w.setText(r.text.c_str());
  if (!r.run_id.empty()) w.setRunId(r.run_id.c_str());
  if (!r.incarnations.empty()) {
    SetList(w.initIncarnations(static_cast<unsigned>(r.incarnations.size())), r.incarnations);
  }
  w.setSnapshot(r.snapshot);
  w.setCommon(r.common);
  if (!r.discard.empty()) {
    SetList(w.initDiscard(static_cast<unsigned>(r.discard.size())), r.discard);
  }
  return Join(HeaderFrame(builder.message), r.payload);
}

Result<Request> DecodeRequest(const Frames& message) {
  return Decode<wire::Request, Request>(message, [](wire::Request::Reader w, Request& r) {
    if (static_cast<int>(w.getOp()) >= kOpCount) return Status::Invalid("unknown operation");
    r.id = w.getId();
    r.session = w.getSession();
    r.op = static_cast<Op>(w.getOp());
    r.epoch = w.getEpoch();
    r.step = w.getStep();
    r.tensor = w.getTensor();
    r.micro_batch = w.getMicroBatch();
    r.tokens = w.getTokens();
    r.training = w.getTraining();
    r.first_row = w.getFirstRow();
    r.row_count = w.getRowCount();
    r.lease = w.getLease();
    r.lr = w.getLr();
    r.scale = w.getScale();
    r.value = w.getValue();
    r.applied = w.getApplied();
    r.protocol = w.getProtocol();
    r.shard = w.getShard();
    r.shards = w.getShards();
    r.text = w.getText().cStr();
    r.run_id = w.getRunId().cStr();
    for (const uint64_t incarnation : w.getIncarnations()) r.incarnations.push_back(incarnation);
    r.snapshot = w.getSnapshot();
    r.common = w.getCommon();
    for (const uint64_t step : w.getDiscard()) r.discard.push_back(step);
    return Status::Ok();
  });
}

Frames Encode(const Reply& r) {
  Builder builder;
  auto w = builder.message.initRoot<wire::Reply>();
  w.setId(r.id);
  w.setCode(static_cast<uint16_t>(r.code));
  if (!r.message.empty()) w.setMessage(r.message.c_str());
  w.setIncarnation(r.incarnation);
  w.setSession(r.session);
  w.setEpoch(r.epoch);
  w.setStep(r.step);
  w.setApplied(r.applied);
  if (!r.text.empty()) w.setText(r.text.c_str());
  w.setWork(static_cast<uint16_t>(r.work));
  w.setMicroBatch(r.micro_batch);
  w.setLease(r.lease);
  w.setLeaseSeconds(r.lease_seconds);
  w.setLr(r.lr);
  w.setClip(r.clip);
  if (!r.records.empty()) {
    auto list = w.initRecords(static_cast<unsigned>(r.records.size()));
    for (unsigned i = 0; i < list.size(); ++i) {
      const StepRecord& record = r.records[i];
      list[i].setStep(record.step);
      list[i].setLoss(record.loss);
      list[i].setLr(record.lr);
      list[i].setGradNorm(record.grad_norm);
      list[i].setValLoss(record.val_loss);
      list[i].setHasValLoss(record.has_val_loss);
      list[i].setDropped(record.dropped);
    }
  }
  const std::vector<uint64_t>& published = r.snapshots.published;
  if (!published.empty()) {
    SetList(w.initPublished(static_cast<unsigned>(published.size())), published);
  }
  w.setWriting(r.snapshots.writing);
  w.setHadCommon(r.had_common);
  w.setSnapshotKeep(r.snapshot_keep);
  w.setSnapshotDue(static_cast<uint16_t>(r.snapshot_due));
  return Join(HeaderFrame(builder.message), r.payload);
}

Result<Reply> DecodeReply(const Frames& message) {
  return Decode<wire::Reply, Reply>(message, [](wire::Reply::Reader w, Reply& r) {
    if (w.getCode() > static_cast<uint16_t>(Code::kDamaged)) return Status::Invalid("unknown code");
    if (w.getWork() > static_cast<uint16_t>(Work::kFailed)) return Status::Invalid("unknown work");
    if (w.getSnapshotDue() > static_cast<uint16_t>(SnapshotDue::kNow)) {
      return Status::Invalid("unknown snapshot order");
    }
    r.id = w.getId();
    r.code = static_cast<Code>(w.getCode());
    r.message = w.getMessage().cStr();
    r.incarnation = w.getIncarnation();
    r.session = w.getSession();
    r.epoch = w.getEpoch();
    r.step = w.getStep();
    r.applied = w.getApplied();
    r.text = w.getText().cStr();
    r.work = static_cast<Work>(w.getWork());
    r.micro_batch = w.getMicroBatch();
    r.lease = w.getLease();
    r.lease_seconds = w.getLeaseSeconds();
    r.lr = w.getLr();
    r.clip = w.getClip();
    for (const uint64_t step : w.getPublished()) r.snapshots.published.push_back(step);
    r.snapshots.writing = w.getWriting();
    r.had_common = w.getHadCommon();
    r.snapshot_keep = w.getSnapshotKeep();
    r.snapshot_due = static_cast<SnapshotDue>(w.getSnapshotDue());
    for (const auto& record : w.getRecords()) {
      r.records.push_back({record.getStep(), record.getLoss(), record.getLr(), record.getGradNorm(),
                           record.getValLoss(), record.getHasValLoss(), record.getDropped()});
    }
    return Status::Ok();
  });
}

}  // namespace mf
