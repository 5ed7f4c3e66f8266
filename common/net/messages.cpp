// Messages to frames and back. Cap'n Proto is known here and in message_fields.h only; its
// exceptions end here.
#include "common/net/messages.h"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <kj/exception.h>
#include <kj/io.h>

#include <cstring>

#include "common/net/message_fields.h"
#include "common/net/protocol.capnp.h"

namespace mf {
namespace {

constexpr size_t kHeaderBytesMax = 8 << 20;

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
    case wire::Request::LIST_RUNS:
      return Read(w.getListRuns(), body.emplace<ListRunsRequest>());
    case wire::Request::DELETE_RUN:
      return Read(w.getDeleteRun(), body.emplace<DeleteRunRequest>());
    case wire::Request::SAVE:
      return Read(w.getSave(), body.emplace<SaveRequest>());
    case wire::Request::LEAVE:
      return Read(w.getLeave(), body.emplace<LeaveRequest>());
    case wire::Request::STOP:
      return Read(w.getStop(), body.emplace<StopRequest>());
    case wire::Request::INITIALISE:
      return Read(w.getInitialise(), body.emplace<InitialiseRequest>());
  }
  return Status::Invalid("unknown operation");
}

Status ReadError(wire::Error::Reader w, Reply& reply) {
  constexpr auto kOk = static_cast<uint16_t>(Code::kOk);
  if (w.getCode() == kOk || w.getCode() >= static_cast<uint16_t>(kCodeCount)) {
    return Status::Invalid("an error of no known code");
  }
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
    case wire::Reply::LIST_RUNS:
      return Read(w.getListRuns(), body.emplace<ListRunsReply>());
    case wire::Reply::DELETE_RUN:
      return Read(w.getDeleteRun(), body.emplace<DeleteRunReply>());
    case wire::Reply::SAVE:
      return Read(w.getSave(), body.emplace<SaveReply>());
    case wire::Reply::LEAVE:
      return Read(w.getLeave(), body.emplace<LeaveReply>());
    case wire::Reply::STOP:
      return Read(w.getStop(), body.emplace<StopReply>());
    case wire::Reply::INITIALISE:
      return Read(w.getInitialise(), body.emplace<InitialiseReply>());
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
    case Op::kListRuns:
      return "list_runs";
    case Op::kDeleteRun:
      return "delete_run";
    case Op::kSave:
      return "save";
    case Op::kLeave:
      return "leave";
    case Op::kInitialise:
      return "initialise";
    case Op::kStop:
      return "stop";
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
