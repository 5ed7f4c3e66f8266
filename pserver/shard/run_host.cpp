#include "pserver/shard/run_host.h"

#include <algorithm>
#include <utility>

#include "common/base/logging.h"
#include "pserver/snapshot/snapshot_folders.h"

namespace mf {
namespace {

/// What is told of a run: not of the next one, whose layers may be others.
constexpr Metric kMetricsOfARun[] = {
    Metric::kStep,          Metric::kTableRows,     Metric::kKeyedRows,
    Metric::kKeysWaiting,   Metric::kKeysAdmitted,  Metric::kRowsExpired,
    Metric::kTableBytes,    Metric::kBucketHits,    Metric::kBucketCoverage,
    Metric::kBucketEntropy, Metric::kBucketTop1,    Metric::kBucketDead,
    Metric::kBucketBinHits, Metric::kSnapshotBytes, Metric::kSnapshotLastStep,
    Metric::kSnapshotAge};

constexpr double kDiskPatience = 10;  // seconds; a disk that answers no sooner is told of

}  // namespace

RunHost::RunHost(const Options& options, ThreadPool& pool, Shard::Send send)
    : options_(options),
      pool_(pool),
      send_(std::move(send)),
      incarnation_(options.shard.incarnation) {}

RunHost::~RunHost() { Close(); }

void RunHost::Handle(const std::string& peer, const Request& request, double now) {
  if (const auto* list = std::get_if<ListRunsRequest>(&request.body)) {
    return Send(peer, request, Answer(*list));
  }
  if (const auto* remove = std::get_if<DeleteRunRequest>(&request.body)) {
    return Send(peer, request, Answer(*remove));
  }
  const auto* hello = std::get_if<HelloRequest>(&request.body);
  if (hello != nullptr) {
    if (const Status admitted = Admit(*hello, now); !admitted.ok()) {
      return Send(peer, request, admitted);
    }
  }
  if (shard_ == nullptr) {
    return Send(peer, request, hello != nullptr ? NoTrainingYet() : NotJoined(request.op()));
  }
  shard_->Handle(peer, request, now);
  if (shard_->run_id().empty()) return Close();  // it did not fit what is stored here
  if (shard_->lost()) return CloseIfLost();
  trained_ |= shard_->commit().recovered();
  // Not at hello: who is refused by another server says it again and again.
  if (hello == nullptr && shard_->IsWorker(request.session)) heard_ = now;
}

void RunHost::HandleMeanwhile(const std::string& peer, const Request& request, double now) {
  const bool served = shard_ != nullptr && !shard_->run_id().empty();
  const auto* hello = std::get_if<HelloRequest>(&request.body);
  if (hello != nullptr) {
    if (const Status meant = Shard::CheckAddressee(*hello, options_.shard); !meant.ok()) {
      return Send(peer, request, meant);
    }
    // Another run may be about to take this one's place.
    const bool other =
        !hello->description.empty() && served && !shard_->Describes(hello->description);
    if (other) return Send(peer, request, Status(Code::kUnavailable, "busy; try again"));
  }
  if (!served) return Send(peer, request, Status(Code::kUnavailable, "busy; try again"));
  shard_->Handle(peer, request, now);
  if (hello == nullptr && shard_->IsWorker(request.session)) heard_ = now;
}

void RunHost::Tick(double now) {
  if (shard_ != nullptr) shard_->Tick(now);
  CloseIfLost();
}

void RunHost::CloseIfLost() {
  if (shard_ == nullptr || !shard_->lost()) return;
  unsaved_ = ending_;
  Close();
}

Status RunHost::Admit(const HelloRequest& hello, double now) {
  MF_RETURN_IF_ERROR(Shard::CheckAddressee(hello, options_.shard));
  if (hello.description.empty()) return Status::Ok();  // only looks at what is here
  if (shard_ != nullptr && shard_->Describes(hello.description)) return Status::Ok();
  MF_ASSIGN_OR_RETURN(const RunDescription run, RunDescription::FromJson(hello.description));
  if (shard_ == nullptr) return Begin(run, now);
  const double silent = now - heard_;
  if (trained_ && !shard_->finished() && silent < idle_seconds_) return Status::Ok();
  if (shard_->writing_snapshot() || silent < quiet_seconds_) {
    return {Code::kUnavailable,
            trained_ ? "the run before has ended and is still being read or saved; try again"
                     : "another run was about to begin here; try again"};
  }
  return Begin(run, now);
}

void RunHost::End(double now) {
  ending_ = true;
  if (shard_ != nullptr) shard_->End(now);
}

bool RunHost::ReadyToEnd(double now) {
  if (shard_ != nullptr && !shard_->ReadyToEnd(now)) return false;
  return run_storage_ == nullptr || run_storage_->disk().idle();
}

double RunHost::disk_busy_seconds() const {
  const double names = run_storage_ == nullptr ? 0 : run_storage_->disk().busy_seconds();
  return std::max(names, shard_ == nullptr ? 0 : shard_->snapshot_late_seconds());
}

std::string RunHost::trouble() const {
  if (const double busy = disk_busy_seconds(); busy >= kDiskPatience) {
    return "the disk of --data has not answered for " + std::to_string(static_cast<int>(busy)) +
           " s: training goes on, and no snapshots are taken";
  }
  if (run_storage_ == nullptr || !run_storage_->moved()) return {};
  return "the folder of --data was moved or removed: training goes on, and nothing is saved";
}

bool RunHost::HasWorkers(double now) const {
  return shard_ != nullptr && trained_ && !shard_->finished() && now - heard_ < kQuietSeconds;
}

Status RunHost::Begin(const RunDescription& run, double now) {
  if (ending_) return {Code::kUnavailable, "this server ends"};
  MF_RETURN_IF_ERROR(CheckFits(run, options_.shard.shards));
  Shard::Options options = options_.shard;
  std::unique_ptr<RunStorage> storage;
  if (options_.storage != nullptr) {
    const Status opened = OnDisk([&]() -> Status {
      if (options_.one_run) MF_RETURN_IF_ERROR(options_.storage->CheckNoOther(run));
      MF_ASSIGN_OR_RETURN(storage, options_.storage->OpenRun(run));
      return Status::Ok();
    });
    MF_RETURN_IF_ERROR(opened);
    storage->SetOptions(&options);
  }
  if (shard_ != nullptr) {
    spdlog::info("run {} {}; another one begins", shard_->run_id().substr(0, 16),
                 shard_->finished() ? "has finished"
                 : trained_         ? "was left by its workers"
                                    : "was not begun by its workers");
  }
  Close();  // its memory is free before the new one takes its own
  incarnation_ = options.incarnation += runs_begun_++;
  auto shard = std::make_unique<Shard>(options, pool_, send_);
  run_storage_ = std::move(storage);
  shard_ = std::move(shard);
  heard_ = now;
  const double lease_seconds = run.rules.lease_seconds;
  idle_seconds_ = std::max(options_.idle_seconds, lease_seconds);
  quiet_seconds_ = std::min(options_.idle_seconds, std::max(kQuietSeconds, lease_seconds / 2));
  return Status::Ok();
}

Status RunHost::OnDisk(const std::function<Status()>& job) const {
  Status status;
  pool_.RunAside([&] { status = job(); });
  return status;
}

void RunHost::Close() {
  if (shard_ == nullptr) return;
  // Before what takes time: requests that are answered meanwhile find nothing, and no halves.
  const auto storage = std::exchange(run_storage_, nullptr);  // outlives the shard
  const auto shard = std::exchange(shard_, nullptr);
  trained_ = false;
  if (options_.shard.metrics == nullptr) return;
  for (const Metric metric : kMetricsOfARun) options_.shard.metrics->Forget(metric);
}

bool RunHost::Serves(const std::string& run_id) const {
  // By its folder: what is stored under a description that cannot be read has no other name.
  return shard_ != nullptr && RunFolderName(shard_->run_id()) == RunFolderName(run_id);
}

Result<ReplyBody> RunHost::Answer(const ListRunsRequest&) {
  ListRunsReply reply;
  if (options_.storage != nullptr) {
    pool_.RunAside([&] { reply.runs = options_.storage->Runs(); });
  }
  for (StoredRun& run : reply.runs) run.active = Serves(run.id);
  return ReplyBody(std::move(reply));
}

Result<ReplyBody> RunHost::Answer(const DeleteRunRequest& remove) {
  if (options_.storage == nullptr) return Status::Invalid("this server stores no runs");
  if (Serves(remove.id)) {
    return Status::Invalid("run " + remove.id +
                           " is served now; stop the server or begin another run first");
  }
  MF_RETURN_IF_ERROR(OnDisk([&] { return options_.storage->Delete(remove.id); }));
  return ReplyBody(DeleteRunReply{});
}

void RunHost::Send(const std::string& peer, const Request& request, Result<ReplyBody> body) {
  Reply reply{.id = request.id, .op = request.op(), .incarnation = incarnation_};
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
