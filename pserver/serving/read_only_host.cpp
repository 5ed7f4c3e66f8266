#include "pserver/serving/read_only_host.h"

#include <cstdlib>
#include <utility>
#include <vector>

#include "pserver/shard/table_reads.h"

namespace mf {

ReadOnlyHost::ReadOnlyHost(const Options& options, Shard::Send send)
    : options_(options),
      send_(std::move(send)),
      description_(options.snapshots->states().back()->run().Json()),
      epoch_(EpochOf(options.snapshots->states().back()->run().RunId())) {}

uint64_t ReadOnlyHost::EpochOf(const std::string& run_id) {
  constexpr size_t kDigits = 15;  // of hexadecimal: also signed numbers hold it
  return 1 + std::strtoull(run_id.substr(0, kDigits).c_str(), nullptr, 16);
}

void ReadOnlyHost::Handle(const std::string& peer, const Request& request, double) {
  Reply reply{.id = request.id, .op = request.op(), .incarnation = options_.shard.incarnation};
  const Status status = Answer(request, &reply);
  if (!status.ok()) {
    reply.body = {};
    reply.payload = {};
    reply.code = status.code();
    reply.message = status.message();
    if (options_.shard.metrics != nullptr) {
      options_.shard.metrics->Count(Metric::kRequestsRejected, {CodeName(reply.code)});
    }
  }
  send_(peer, std::move(reply));
}

RunState ReadOnlyHost::State() const {
  const std::vector<SnapshotFollower::State> states = options_.snapshots->states();
  RunState state{
      .finished = StateOf(*states.back()), .description = description_, .doing = "read-only"};
  for (const SnapshotFollower::State& one : states) state.readable.push_back(one->step());
  return state;
}

Result<SnapshotFollower::State> ReadOnlyHost::Find(const ReadState& at) const {
  if (IsTraining(at)) {
    return Status::Invalid("this server is read-only: it has no open step");
  }
  const FinishedStep wanted = FinishedStepOf(at);
  const std::vector<SnapshotFollower::State> states = options_.snapshots->states();
  for (const SnapshotFollower::State& state : states) {
    if (wanted == StateOf(*state)) return state;
  }
  if (wanted.epoch != epoch_) {
    return Status(Code::kWrongEpoch, "another run is served here now");
  }
  return Status(Code::kStale, "step " + std::to_string(wanted.step) +
                                  " is not served here any more; the newest is step " +
                                  std::to_string(states.back()->step()));
}

template <class Body, class Form>
Status ReadOnlyHost::Read(const Body& body, const Frames& payload,
                          Result<Frames> (*answer)(const Body&, const Frames&,
                                                   const RunDescription&, ShardTables&),
                          Form form, Reply* reply) const {
  MF_ASSIGN_OR_RETURN(const SnapshotFollower::State state, Find(body.at));
  MF_ASSIGN_OR_RETURN(reply->payload, answer(body, payload, state->run(), state->tables()));
  reply->body = form;
  return Status::Ok();
}

Status ReadOnlyHost::Answer(const Request& request, Reply* reply) const {
  const Frames& payload = request.payload;
  if (const auto* hello = std::get_if<HelloRequest>(&request.body)) {
    MF_RETURN_IF_ERROR(Shard::CheckAddressee(*hello, options_.shard));
    if (!hello->description.empty()) {
      return Status::Invalid(
          "this server is read-only: it serves snapshots; train on servers with --data");
    }
    reply->body =
        HelloReply{.session = request.session != 0 ? request.session : 1, .state = State()};
    return Status::Ok();
  }
  if (std::holds_alternative<StatusRequest>(request.body)) {
    reply->body = StatusReply{State()};
    return Status::Ok();
  }
  if (const auto* forward = std::get_if<ForwardRequest>(&request.body)) {
    return Read(*forward, payload, AnswerForward, ForwardReply{}, reply);
  }
  if (const auto* pull = std::get_if<PullRequest>(&request.body)) {
    return Read(*pull, payload, AnswerPull, PullReply{}, reply);
  }
  if (const auto* list = std::get_if<ListRowsRequest>(&request.body)) {
    return Read(*list, payload, AnswerListRows, ListRowsReply{}, reply);
  }
  return Status::Invalid("this server is read-only: it does not answer " +
                         std::string(OpName(request.op())));
}

}  // namespace mf
