#include "pserver/shard/shard.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <new>
#include <numeric>

#include "common/base/machine_limits.h"
#include "pserver/shard/shard_run.h"

namespace mf {
namespace {

constexpr size_t kWorkersMax = 65'536;
constexpr size_t kObserversMax = 256;

Status Bad(const std::string& what) { return Status::Invalid(what); }

/// Dense tensors are held whole: refused before the machine runs out of memory over them.
Status CheckDenseMemory(const Config& config) {
  double bytes = 0;
  for (const TensorSpec& tensor : TensorsOf(config)) {
    if (tensor.kind != TensorKind::kDense) continue;
    constexpr double kPlanes = 4;  // w, m, v and the gradient
    bytes += kPlanes * sizeof(float) * static_cast<double>(tensor.total_rows()) *
             static_cast<double>(tensor.columns);
  }
  const double limit = static_cast<double>(MemoryLimitBytes());
  if (bytes <= limit) return Status::Ok();
  return Bad("the dense tensors of this model need " + std::to_string(bytes / 1e9) +
             " GB, this server's machine has " + std::to_string(limit / 1e9) + " GB");
}

/// What is different in the run that `theirs` (CanonicalJson) describes.
std::string WhatDiffers(const Config& ours, const std::string& theirs) {
  const Result<Config> config = ConfigFromJson(theirs);
  const std::string difference =
      config.ok() ? DescribeDifference(ours, config.value()) : config.status().message();
  return difference.empty() ? "the same configuration on other data" : difference;
}

}  // namespace

Shard::Shard(const Options& options, ThreadPool& pool, Send send)
    : options_(options),
      pool_(pool),
      send_(std::move(send)),
      monitor_(options.metrics),
      workers_(kWorkersMax),
      observers_(kObserversMax) {
  if (options.store == nullptr) return;
  MF_CHECK(options.writer != nullptr);
  snapshots_ = std::make_unique<Snapshots>(*options.store, *options.writer, options.metrics);
}

Shard::~Shard() { snapshots_.reset(); }  // before the tables that it reads

void Shard::Handle(const std::string& peer, const Request& request, double now) {
  Reply reply;
  bool answered = false;
  Status status;
  try {
    status = Dispatch(peer, request, now, &reply, &answered);
  } catch (const std::bad_alloc&) {
    status = Status::Failed(
        std::string(OpName(request.op)) +
        ": the server has not enough memory for it; use more servers or a smaller model");
  }
  if (!status.ok() || !answered) Answer(peer, request, status, std::move(reply));
}

void Shard::Answer(const std::string& peer, const Request& request, const Status& status,
                   Reply reply) {
  if (!status.ok()) {
    reply = Reply();
    reply.code = status.code();
    reply.message = status.message();
    if (options_.metrics != nullptr) {
      options_.metrics->Count(Metric::kRequestsRejected, {CodeName(status.code())});
    }
  }
  reply.op = request.op;
  reply.id = request.id;
  reply.incarnation = options_.incarnation;
  send_(peer, std::move(reply));
}

Status Shard::Dispatch(const std::string& peer, const Request& request, double now, Reply* reply,
                       bool* answered) {
  if (request.op == Op::kHello) return Hello(request, reply);
  if (observers_.contains(request.session)) {
    if (request.op == Op::kStatus) return DoStatus(request, reply);
    if (request.op == Op::kBuckets) return Buckets(request, reply);
    return Bad(std::string(OpName(request.op)) + " from an observer");
  }
  if (!workers_.contains(request.session)) {
    return {Code::kNotJoined,
            std::string(OpName(request.op)) + " without a joined session; say hello"};
  }
  MF_CHECK(run_ != nullptr);
  switch (request.op) {
    case Op::kHello:
      break;
    case Op::kStatus:
      return DoStatus(request, reply);
    case Op::kRollback:
      return Rollback(request);
    case Op::kPull:
      return Pull(request, reply);
    case Op::kListRows:
      return ListRows(request, reply);
    case Op::kBuckets:
      return Buckets(request, reply);
    case Op::kForward:
      return Forward(request, reply);
    case Op::kBackward:
      return Backward(peer, request, reply, answered);
    case Op::kPush:
      return Push(peer, request, reply, answered);
    case Op::kPrepare:
      return Prepare(request, reply);
    case Op::kApply:
      return Finish(request, Ended::kApplied, now, reply);
    case Op::kDrop:
      return Finish(request, Ended::kDropped, now, reply);
    case Op::kLease:
    case Op::kRenew:
    case Op::kMicroBatchDone:
    case Op::kStepEnded:
    case Op::kEvaluated:
    case Op::kGiveBack:
    case Op::kRecovered:
      if (desk_ != nullptr) return desk_->Handle(peer, request, now, answered);
      return Bad("the work board is on shard 0, this is shard " + std::to_string(options_.shard));
  }
  return Bad("unknown operation");
}

Status Shard::Hello(const Request& request, Reply* reply) {
  if (request.protocol != kProtocolVersion) {
    return Bad("protocol " + std::to_string(request.protocol) + ", this server speaks " +
               std::to_string(kProtocolVersion));
  }
  if (request.shard != options_.shard || request.shards != options_.shards) {
    return Bad("asked for shard " + std::to_string(request.shard) + " of " +
               std::to_string(request.shards) + ", this is shard " +
               std::to_string(options_.shard) + " of " + std::to_string(options_.shards));
  }
  if (request.run_id.empty()) {
    if (run_ == nullptr) {
      return {Code::kUnavailable, "no training has begun on this server"};
    }
    reply->session = observers_.Renew(request.session);
    return DoStatus(request, reply);
  }
  if (run_ == nullptr) {
    MF_RETURN_IF_ERROR(OpenRun(request));
  } else if (run_->id != request.run_id) {
    return {Code::kWrongRun,
            "this server runs another training: " + WhatDiffers(run_->config, request.text) +
                "; use the same --config, --set and --data, or servers of your own"};
  }
  reply->session = workers_.Renew(request.session);
  return DoStatus(request, reply);
}

/// The first worker's hello says what run it is.
Status Shard::OpenRun(const Request& hello) {
  MF_ASSIGN_OR_RETURN(Config config, ConfigFromJson(hello.text));
  MF_RETURN_IF_ERROR(CheckShards(config, TensorsOf(config), options_.shards));
  MF_RETURN_IF_ERROR(CheckDenseMemory(config));
  if (const auto held = snapshots_ == nullptr ? std::nullopt : snapshots_->NewestInfo();
      held.has_value() && held->run_id != hello.run_id) {
    const Result<Config> theirs = ConfigFromJson(held->config);
    return {
        Code::kWrongRun,
        "this server's folder holds another training: " +
            (theirs.ok() ? WhatDiffers(theirs.value(), hello.text) : theirs.status().message()) +
            "; use the same --config, --set and --data to go on with it, or a folder of its own"};
  }
  run_ = std::make_unique<Run>(std::move(config));
  run_->id = hello.run_id;
  if (options_.metrics != nullptr) {
    options_.metrics->Set(Metric::kRunSteps, static_cast<double>(run_->config.train.steps));
    options_.metrics->Set(Metric::kServers, static_cast<double>(options_.shards));
  }
  if (options_.shard != 0) return Status::Ok();
  desk_ = std::make_unique<BoardDesk>(run_->config, options_.boot_count, options_.metrics,
                                      [this](const std::string& peer, Reply answer) {
                                        answer.incarnation = options_.incarnation;
                                        send_(peer, std::move(answer));
                                      });
  return Status::Ok();
}

Status Shard::DoStatus(const Request&, Reply* reply) {
  reply->epoch = commit_.epoch();
  reply->step = commit_.finished();
  reply->text = run_->canonical;
  if (snapshots_ != nullptr) reply->snapshots = snapshots_->State();
  if (options_.folder != nullptr) reply->had_common = options_.folder->common_step(run_->id);
  return Status::Ok();
}

Status Shard::Rollback(const Request& request) {
  // Who looked at another process in this place may not know what this one has (DESIGN 2.7).
  if (!request.incarnations.empty() && request.incarnations[0] != options_.incarnation) {
    return {Code::kWrongEpoch, "rollback of another incarnation of this server"};
  }
  // Before anything is said of the step: a late holder's may be discarded long since.
  MF_ASSIGN_OR_RETURN(const auto admitted, commit_.AdmitRollback(request.epoch, request.step));
  if (admitted == CommitState::Action::kRepeat) return Status::Ok();
  if (request.step != 0) {
    const std::vector<uint64_t> published =
        snapshots_ == nullptr ? std::vector<uint64_t>() : snapshots_->State().published;
    if (!std::binary_search(published.begin(), published.end(), request.step)) {
      // Not the holder's mistake: what it was told of may have been deleted by the rollback of an
      // older holder, or set aside as damaged. It has to look again.
      return {Code::kUnavailable,
              "rollback to step " + std::to_string(request.step) + ": there is no such state here"};
    }
  }
  MF_RETURN_IF_ERROR(commit_.Rollback(request.epoch, request.step).status());
  Status restored = Status::Failed("not enough memory for the tables");
  try {
    restored = Restore(request.step);
  } catch (const std::bad_alloc&) {
  }
  if (!restored.ok()) {
    run_->DropTensors();
    commit_.RollbackFailed();
    return restored;
  }
  monitor_.RolledBack(commit_.finished());
  return Status::Ok();
}

Status Shard::Restore(uint64_t step) {
  if (snapshots_ != nullptr) snapshots_->GiveUp();  // it reads the tables
  BuildTables();
  if (snapshots_ == nullptr) return Status::Ok();
  if (step == 0) return snapshots_->Clear(run_->clock);
  std::vector<StepRecord> records;
  MF_RETURN_IF_ERROR(
      snapshots_->Load(step, run_->id, run_->tensors, run_->history, run_->clock, &records));
  if (desk_ != nullptr) desk_->Restore(step, records);
  return Status::Ok();
}

void Shard::BuildTables() {
  // What fits the budget is addressed directly, the smallest tensors first (DESIGN 2.8).
  run_->DropTensors();
  run_->history.Truncate(0);
  run_->prepared = Reply();
  const Config& config = run_->config;
  std::vector<TensorLayout> layouts;
  for (const TensorSpec& spec : run_->specs) {
    layouts.push_back(LayoutOf(spec, config.model.column_blocks, options_.shard, options_.shards));
  }
  const auto state_bytes = [&](size_t i) {
    // Gradients of a step can hit every row, too; and while a snapshot is written the state may
    // have to be kept twice.
    const uint64_t rows = layouts[i].spec.total_rows();
    const uint64_t state = Table::DirectBytes(layouts[i], run_->optimizer, rows);
    return state * (snapshots_ == nullptr ? 1 : 2) + rows * layouts[i].stride * sizeof(float);
  };
  std::vector<size_t> by_size(layouts.size());
  std::iota(by_size.begin(), by_size.end(), size_t{0});
  std::stable_sort(by_size.begin(), by_size.end(),
                   [&](size_t a, size_t b) { return state_bytes(a) < state_bytes(b); });
  std::vector<Table::Storage> storage(layouts.size(), Table::Storage::kSparse);
  uint64_t left = options_.memory_bytes;
  // Dense tensors are read and written whole: direct whatever the budget is.
  for (const size_t i : by_size) {
    if (layouts[i].spec.kind != TensorKind::kDense) continue;
    storage[i] = Table::Storage::kDirect;
    left -= std::min(left, state_bytes(i));
  }
  for (const size_t i : by_size) {
    if (storage[i] == Table::Storage::kDirect) continue;
    if (state_bytes(i) > left) break;
    storage[i] = Table::Storage::kDirect;
    left -= state_bytes(i);
  }
  std::vector<std::unique_ptr<TensorShard>> tensors;
  for (size_t i = 0; i < layouts.size(); ++i) {
    // Every server sees every hit: one of them counts (DESIGN 7).
    const TensorShard::Options options{config.model.probes, config.model.seed, storage[i],
                                       options_.shard == 0, run_->micro_batches()};
    tensors.push_back(std::make_unique<TensorShard>(std::move(layouts[i]), options, run_->optimizer,
                                                    run_->clock, pool_, *run_->arena,
                                                    run_->scratch));
  }
  run_->tensors = std::move(tensors);
}

Status Shard::Prepare(const Request& request, Reply* reply) {
  if (run_->tensors.empty()) return {Code::kUnavailable, "waits for recovery"};
  MF_ASSIGN_OR_RETURN(const auto action,
                      commit_.Prepare(request.epoch, request.step, run_->AllIn()));
  if (action == CommitState::Action::kDo) {
    run_->prepared = Reply();
    std::vector<double>& squares = run_->squares;
    squares.clear();
    for (const auto& tensor : run_->tensors) {
      tensor->Prepare(&squares);
      if (!tensor->finite() && run_->prepared.text.empty()) {
        run_->prepared.text = tensor->layout().spec.name;
      }
    }
    Buffer buffer(squares.size() * sizeof(double));
    std::memcpy(buffer.data(), squares.data(), buffer.size());
    run_->prepared.payload = {Frame(buffer)};
    if (snapshots_ != nullptr) run_->prepared.snapshots = snapshots_->State();
  }
  *reply = run_->prepared;
  return Status::Ok();
}

Status Shard::Finish(const Request& request, Ended how, double now, Reply* reply) {
  const auto fits_float = [](double x) { return std::abs(x) <= std::numeric_limits<float>::max(); };
  if (how == Ended::kApplied && !(fits_float(request.lr) && fits_float(request.scale))) {
    return Bad("apply with a rate or scale that is not a finite float");
  }
  MF_ASSIGN_OR_RETURN(const auto end, commit_.Finish(request.epoch, request.step, how));
  if (end.action == CommitState::Action::kDo) {
    const bool applied = how == Ended::kApplied;
    try {
      for (const auto& tensor : run_->tensors) {
        if (applied) {
          tensor->Apply(run_->history, request.lr, static_cast<float>(request.scale));
        } else {
          tensor->ForgetStep();
        }
      }
      if (applied) run_->history.Append(request.lr);
    } catch (const std::bad_alloc&) {
      // Half a step is in the tables: they are no state that anybody may read or save.
      if (snapshots_ != nullptr) snapshots_->GiveUp();
      run_->DropTensors();
      commit_.RollbackFailed();
      return {Code::kUnavailable, "not enough memory to apply a step; it has to be recovered"};
    }
    monitor_.StepEnded(commit_.finished(), applied);
    if (snapshots_ != nullptr) {
      if (options_.folder != nullptr) {
        // For a recovery that finds none any more. If it can not be kept now, it is said again.
        (void)options_.folder->KeepCommonStep(run_->id, request.common);
      }
      snapshots_->Discard(request.discard);
      if (request.snapshot) TakeSnapshot(request, applied, now);
    }
  }
  reply->applied = end.ended == Ended::kApplied;
  return Status::Ok();
}

void Shard::TakeSnapshot(const Request& request, bool applied, double now) {
  std::vector<StepRecord> records;
  if (desk_ != nullptr) {
    records = desk_->board().records();
    // The board hears of the step's end later.
    if (desk_->board().step() == request.step) {
      records.push_back(desk_->board().RecordIfEnded(applied, request.value));
    }
  }
  const SnapshotInfo info{.step = commit_.finished(),
                          .run_id = run_->id,
                          .config = run_->canonical,
                          .shard = options_.shard,
                          .shards = options_.shards,
                          .applied = run_->history.count()};
  snapshots_->Begin(info, run_->tensors, run_->history, records, run_->clock, now);
}

void Shard::Tick(double now) {
  if (desk_ != nullptr) desk_->Tick(now);
  if (run_ != nullptr) monitor_.Tick(run_->tensors, commit_.step(), now);
  if (run_ != nullptr && snapshots_ != nullptr) snapshots_->TellAge(now);
  if (options_.metrics != nullptr && options_.folder != nullptr && now >= look_at_disk_) {
    constexpr double kBetweenLooks = 5;  // seconds; the disk may be far away
    look_at_disk_ = now + kBetweenLooks;
    const DataDirectory::Space disk = options_.folder->DiskSpace();
    if (disk.size > 0) {  // else it did not answer, and is neither empty nor full
      options_.metrics->Set(Metric::kDataFree, static_cast<double>(disk.free));
      options_.metrics->Set(Metric::kDataSize, static_cast<double>(disk.size));
    }
  }
}

}  // namespace mf
