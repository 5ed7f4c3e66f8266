#include "pserver/shard/run_host.h"

#include <utility>

#include "common/base/logging.h"

namespace mf {
namespace {

/// After the end of a run its workers still read the model: so long after the last one did.
constexpr double kReadSeconds = 2;

}  // namespace

RunHost::RunHost(const Options& options, ThreadPool& pool, Shard::Send send)
    : options_(options), pool_(pool), send_(std::move(send)) {}

RunHost::~RunHost() { Close(); }

void RunHost::Handle(const std::string& peer, const Request& request, double now) {
  if (const auto* list = std::get_if<ListRunsRequest>(&request.body)) {
    return Send(peer, request, Answer(*list));
  }
  if (const auto* remove = std::get_if<DeleteRunRequest>(&request.body)) {
    return Send(peer, request, Answer(*remove));
  }
  const auto* hello = std::get_if<HelloRequest>(&request.body);
  if (hello != nullptr && !hello->description.empty()) {
    const Result<RunDescription> run = RunDescription::FromJson(hello->description);
    if (!run.ok()) return Send(peer, request, run.status());
    if (const Status admitted = Admit(run.value(), now); !admitted.ok()) {
      return Send(peer, request, admitted);
    }
  }
  if (shard_ == nullptr) {
    return Send(peer, request,
                hello != nullptr
                    ? Status(Code::kUnavailable, "no training has begun on this server")
                    : Status(Code::kNotJoined, std::string(OpName(request.op())) +
                                                   " without a joined session; say hello"));
  }
  shard_->Handle(peer, request, now);
  if (hello != nullptr && shard_->run_id().empty()) return Close();  // it did not fit this server
  if (hello != nullptr || shard_->IsWorker(request.session)) heard_ = now;
}

void RunHost::Tick(double now) {
  if (shard_ != nullptr) shard_->Tick(now);
}

Status RunHost::Admit(const RunDescription& run, double now) {
  if (shard_ == nullptr) return Open(run);
  if (shard_->run_id() == run.RunId()) return Status::Ok();
  const double silent = now - heard_;
  if (!shard_->finished() && silent < options_.idle_seconds) return Status::Ok();  // it refuses
  if (shard_->writing_snapshot() || silent < kReadSeconds) {
    return {Code::kUnavailable,
            "the run before has ended and is still being read or saved; try again"};
  }
  spdlog::info("run {} {}; another one begins", shard_->run_id().substr(0, 16),
               shard_->finished() ? "has finished" : "was left by its workers");
  Close();
  return Open(run);
}

Status RunHost::Open(const RunDescription& run) {
  Shard::Options options = options_.shard;
  options.incarnation += runs_opened_;
  if (options_.storage != nullptr) {
    for (const StoredRun& other : options_.storage->Runs()) {
      if (!options_.one_run || other.newest == 0 || other.id == run.RunId()) continue;
      return AnotherTrainingThere(options_.storage->DescriptionOf(other.id), run);
    }
    MF_RETURN_IF_ERROR(CheckShards(run, options.shards));
    MF_ASSIGN_OR_RETURN(run_storage_, options_.storage->OpenRun(run));
    run_storage_->SetOptions(&options);
  }
  ++runs_opened_;
  shard_ = std::make_unique<Shard>(options, pool_, send_);
  return Status::Ok();
}

void RunHost::Close() {
  shard_.reset();
  run_storage_.reset();
}

Result<ReplyBody> RunHost::Answer(const ListRunsRequest&) {
  ListRunsReply reply;
  if (options_.storage != nullptr) reply.runs = options_.storage->Runs();
  for (StoredRun& run : reply.runs) {
    run.active = shard_ != nullptr && shard_->run_id() == run.id;
  }
  return ReplyBody(std::move(reply));
}

Result<ReplyBody> RunHost::Answer(const DeleteRunRequest& remove) {
  if (shard_ != nullptr && shard_->run_id() == remove.id) {
    return Status::Invalid("run " + remove.id +
                           " is served now; stop the server or begin another run first");
  }
  if (options_.storage == nullptr) return Status::Invalid("this server stores no runs");
  MF_RETURN_IF_ERROR(options_.storage->Delete(remove.id));
  return ReplyBody(DeleteRunReply{});
}

void RunHost::Send(const std::string& peer, const Request& request, Result<ReplyBody> body) {
  Reply reply{.id = request.id,
              .op = request.op(),
              .incarnation = options_.shard.incarnation + runs_opened_};
  if (body.ok()) {
    reply.body = std::move(body).value();
  } else {
    reply.code = body.status().code();
    reply.message = body.status().message();
    if (options_.shard.metrics != nullptr) {
      options_.shard.metrics->Count(Metric::kRequestsRejected, {CodeName(reply.code)});
    }
  }
  send_(peer, std::move(reply));
}

}  // namespace mf
