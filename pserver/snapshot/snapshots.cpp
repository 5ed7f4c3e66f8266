#include "pserver/snapshot/snapshots.h"

#include <algorithm>
#include <new>
#include <utility>

#include "common/base/logging.h"
#include "pserver/snapshot/snapshot_format.h"
#include "pserver/snapshot/snapshot_load.h"

namespace mf {
namespace {
constexpr double kLateSeconds = 60;        // of the writer: more is told
constexpr size_t kChunkBytes = 4 << 20;    // handed over between two requests: about 1 ms
constexpr size_t kChunkEntries = 1 << 16;  // the same
constexpr const char* kOutOfMemory = "out of memory";  // short: takes none itself

/// Something is being loaded while this lives.
class Loading {
 public:
  explicit Loading(std::optional<int>& percent) : percent_(percent) { percent_ = 0; }
  ~Loading() { percent_.reset(); }
  Loading(const Loading&) = delete;
  Loading& operator=(const Loading&) = delete;

 private:
  std::optional<int>& percent_;
};
}  // namespace

/// One snapshot on its way.
struct Snapshots::Writing {
  SnapshotInfo info;
  const std::vector<std::unique_ptr<TensorShard>>* tensors;
  uint32_t clock;  // at the cut
  double since;
  size_t part = 0;            // that is handed over: rows of a tensor, or keys that wait for them
  std::vector<double> rates;  // of applied steps first_rate, ...
  uint64_t first_rate = 1;
  std::vector<StepRecord> records;
  bool all_rows = false;
  bool published = false;  // the writer knows that nothing more comes
  bool said = false;       // that it takes long
  SnapshotChunk chunk;     // filled, not taken yet
};

Snapshots::Snapshots(SnapshotStore& store, SnapshotWriter& writer, DiskThread* disk,
                     ThreadPool& pool, Metrics* metrics)
    : store_(store), writer_(writer), disk_(disk), pool_(pool), metrics_(metrics) {
  if (metrics != nullptr) metrics->Count(Metric::kSnapshotFailures, {}, 0);
}

Snapshots::~Snapshots() { AbandonCurrent(); }

uint64_t Snapshots::writing() const { return writing_ == nullptr ? 0 : writing_->info.step; }

std::optional<SnapshotInfo> Snapshots::NewestInfo() const {
  std::optional<SnapshotInfo> newest;
  pool_.RunAside([&] {
    const std::vector<uint64_t> published = store_.Published();
    for (auto step = published.rbegin(); step != published.rend(); ++step) {
      auto info = store_.Info(*step);
      if (!info.ok()) continue;
      newest = std::move(info).value();
      return;
    }
  });
  return newest;
}

void Snapshots::Begin(const SnapshotInfo& info, ShardTables& tables, const RecordsFrom& records,
                      double now) {
  try {
    TryBegin(info, tables, records, now);
  } catch (const std::bad_alloc&) {
    Failed(info.step, Status::Failed(kOutOfMemory));
  }
}

void Snapshots::TryBegin(const SnapshotInfo& info, ShardTables& tables, const RecordsFrom& records,
                         double now) {
  if (writing_ != nullptr) {
    // The last step of a run: its state stays, so the order can wait until the writer is done.
    next_ = [=, this, &tables](double then) { Begin(info, tables, records, then); };
    return;
  }
  const std::vector<uint64_t> published = store_.Published();
  if (failing_ && !std::binary_search(published.begin(), published.end(), last_step_)) {
    // What the failed one left may stand on a snapshot that is deleted: all is written anew.
    last_step_ = last_applied_ = 0;
    last_clock_ = kNothing;
    if (const Status reset = OnStore([&] { return store_.Reset(0); }); !reset.ok())
      return Failed(info.step, reset);
  }
  try {
    auto writing = std::make_unique<Writing>();
    writing->info = info;
    writing->tensors = &tables.tensors;
    writing->since = now;
    writing->clock = tables.clock.now++;
    // That of the last step again: its evaluation came later.
    writing->records = records(last_step_);
    writing->first_rate = last_applied_ + 1;
    for (uint64_t i = last_applied_ + 1; i <= tables.history.count(); ++i) {
      writing->rates.push_back(tables.history.rate(i));
    }
    for (const auto& tensor : tables.tensors) tensor->BeginCut(last_clock_);
    writing_ = std::move(writing);
  } catch (const std::bad_alloc&) {
    for (const auto& tensor : tables.tensors) tensor->EndCut();
    throw;
  }
  writer_.Begin();
}

void Snapshots::Failed(uint64_t step, const Status& status) {
  // Said once: a full disk stays full for many snapshots.
  if (!std::exchange(failing_, true)) {
    spdlog::error("snapshot of step {}: {}; the run goes on, later snapshots are tried", step,
                  status.message());
  }
  if (metrics_ != nullptr) metrics_->Count(Metric::kSnapshotFailures);
}

void Snapshots::FillChunk() {
  SnapshotChunk& chunk = writing_->chunk;
  const auto add = [&chunk](uint32_t space, uint64_t id, size_t bytes) {
    const size_t offset = chunk.values.size();
    chunk.values.insert(chunk.values.end(), bytes, std::byte{});
    chunk.entries.push_back({space, id, offset, bytes});
    return chunk.values.data() + offset;
  };
  // Rows of all tensors, then keys that wait of all.
  const size_t tensors = writing_->tensors->size();
  std::vector<std::byte> state;
  for (; writing_->part < 2 * tensors; ++writing_->part) {
    TensorShard& tensor = *(*writing_->tensors)[writing_->part % tensors];
    const bool waiting = writing_->part >= tensors;
    const uint32_t space = tensor.layout().spec.id + (waiting ? kFirstWaitingSpace : 0);
    state.resize(waiting ? TensorShard::kWaitingBytes : tensor.row_bytes());
    uint64_t id = 0;
    bool removed = false;
    while (chunk.values.size() < kChunkBytes && chunk.entries.size() < kChunkEntries) {
      if (!(waiting ? tensor.NextCutWaiting(&id, &removed, state.data())
                    : tensor.NextCutRow(&id, &removed, state.data()))) {
        break;
      }
      if (removed) {
        chunk.entries.push_back({space, id, chunk.values.size(), 0, true});
      } else {
        std::copy(state.begin(), state.end(), add(space, id, state.size()));
      }
    }
    if (chunk.values.size() >= kChunkBytes || chunk.entries.size() >= kChunkEntries) return;
  }
  for (size_t i = 0; i < writing_->rates.size(); ++i) {
    EncodeRate(writing_->rates[i], add(kRateSpace, writing_->first_rate + i, kRateBytes));
  }
  for (const StepRecord& record : writing_->records) {
    EncodeRecord(record, add(kRecordSpace, record.step, kRecordBytes));
  }
  writing_->all_rows = true;
}

bool Snapshots::Work(double now) {
  try {
    return TryWork(now);
  } catch (const std::bad_alloc&) {
    const uint64_t step = writing();
    const auto next = std::exchange(next_, nullptr);
    AbandonCurrent();
    if (step != 0) Failed(step, Status::Failed(kOutOfMemory));
    if (next != nullptr) next(now);
    return false;
  }
}

bool Snapshots::TryWork(double now) {
  if (writing_ == nullptr) return false;
  if (!writing_->said && writer_.late_seconds() > kLateSeconds) {
    writing_->said = true;
    spdlog::warn(
        "snapshot of step {}: not written after {:.0f} s; is the disk well? no other one "
        "is begun before",
        writing_->info.step, now - writing_->since);
    if (metrics_ != nullptr) metrics_->Count(Metric::kSnapshotFailures);
  }
  if (writing_->published) {
    if (const auto outcome = writer_.Poll(); outcome.has_value()) {
      Finish(*outcome, now);
      if (const auto next = std::exchange(next_, nullptr); next != nullptr) next(now);
    }
    return false;
  }
  if (writing_->chunk.entries.empty() && !writing_->all_rows) FillChunk();
  if (!writing_->chunk.entries.empty() && !writer_.Put(writing_->chunk)) return false;
  if (!writing_->all_rows) return true;
  writer_.Publish(writing_->info);
  writing_->published = true;
  return false;
}

void Snapshots::Finish(const SnapshotWriter::Outcome& outcome, double now) {
  const std::unique_ptr<Writing> done = std::move(writing_);
  const uint64_t step = done->info.step;
  if (!outcome.status.ok()) return Failed(step, outcome.status);
  if (std::exchange(failing_, false)) spdlog::info("snapshot of step {}: they work again", step);
  last_step_ = step;
  last_applied_ = done->info.applied;
  last_clock_ = done->clock;
  spdlog::debug("snapshot of step {}: {} rows, {} bytes in {:.3f} s", step, outcome.stats.rows,
                outcome.stats.bytes, now - done->since);
  saved_at_ = done->since;
  if (metrics_ == nullptr) return;
  metrics_->Observe(Metric::kSnapshotSeconds, now - done->since);
  metrics_->Set(Metric::kSnapshotBytes, static_cast<double>(outcome.stats.bytes));
  metrics_->Set(Metric::kSnapshotLastStep, static_cast<double>(step));
}

void Snapshots::UpdateAgeMetric(double now) {
  if (metrics_ == nullptr) return;
  if (!saved_at_.has_value()) saved_at_ = now;
  metrics_->Set(Metric::kSnapshotAge, now - *saved_at_);
}

void Snapshots::AbandonCurrent() {
  next_ = nullptr;
  if (writing_ == nullptr) return;
  pool_.RunAside([&] { writer_.Abandon(); });
  for (const auto& tensor : *writing_->tensors) tensor->EndCut();
  writing_.reset();
}

void Snapshots::Discard(const std::vector<uint64_t>& steps) {
  if (steps.empty()) return;
  const std::vector<uint64_t> published = store_.Published();
  // What is written stands on the newest: it does not go meanwhile, and is said again; nor after
  // the next one has begun.
  const bool newest =
      std::count(steps.begin(), steps.end(), published.empty() ? 0 : published.back()) > 0;
  std::vector<uint64_t> going = steps;
  if (newest && writing() != 0) std::erase(going, published.back());
  const auto remove = [&store = store_, going, said = undeletable_] {
    for (const uint64_t step : going) {
      // It may have been said before.
      const std::vector<uint64_t> there = store.Published();
      if (!std::binary_search(there.begin(), there.end(), step)) continue;
      const Status deleted = store.Delete(step);
      if (deleted.ok()) {
        said->erase(step);
      } else if (said->insert(step).second) {
        spdlog::error("snapshot of step {}: {}", step, deleted.message());
      }
    }
  };
  if (disk_ == nullptr) return remove();
  if (!newest || writing() != 0) return disk_->Do(remove);
  pool_.RunAside([&] {
    disk_->Drain();
    remove();
  });
}

Status Snapshots::DeleteNewer(uint64_t step) {
  for (const uint64_t published : store_.Published()) {
    if (published > step) MF_RETURN_IF_ERROR(store_.Delete(published));
  }
  return Status::Ok();
}

Status Snapshots::OnStore(const std::function<Status()>& job) {
  Status status;
  pool_.RunAside([&] {
    // Not beside what was said to be deleted before.
    if (disk_ != nullptr) disk_->Drain();
    status = job();
  });
  return status;
}

Status Snapshots::Clear(ChangeClock& clock) {
  AbandonCurrent();
  const Status cleared = OnStore([&]() -> Status {
    MF_RETURN_IF_ERROR(DeleteNewer(0));
    return store_.Reset(0);
  });
  MF_RETURN_IF_ERROR(cleared);
  clock = {};
  last_step_ = last_applied_ = 0;
  last_clock_ = kNothing;
  return Status::Ok();
}

Status Snapshots::Load(uint64_t step, const std::string& run_id, ShardTables& tables,
                       std::vector<StepRecord>* records) {
  AbandonCurrent();
  {
    const Loading loading(loaded_percent_);
    MF_RETURN_IF_ERROR(DeleteNewerAndRead(step, run_id, tables, records));
  }
  tables.clock = {};
  last_step_ = step;
  last_applied_ = tables.history.count();
  last_clock_ = 0;
  saved_at_.reset();
  if (metrics_ != nullptr) {
    metrics_->Set(Metric::kSnapshotLastStep, static_cast<double>(step));
  }
  return Status::Ok();
}

Status Snapshots::DeleteNewerAndRead(uint64_t step, const std::string& run_id, ShardTables& tables,
                                     std::vector<StepRecord>* records) {
  MF_RETURN_IF_ERROR(OnStore([&] { return DeleteNewer(step); }));
  MF_RETURN_IF_ERROR(
      Read(store_, step, "snapshot of step " + std::to_string(step), run_id, tables, records));
  return OnStore([&] { return store_.Reset(step); });
}

Status Snapshots::LoadInitial(SnapshotStore& initial, const std::string& run_id,
                              ShardTables& tables) {
  const Loading loading(loaded_percent_);
  std::vector<StepRecord> none;
  const Status read =
      Read(initial, kInitialStep, "the state that the run begins with", run_id, tables, &none);
  return read.ok() ? read : Status::Failed(read.message());
}

Status Snapshots::Read(SnapshotStore& store, uint64_t step, const std::string& name,
                       const std::string& run_id, ShardTables& tables,
                       std::vector<StepRecord>* records) {
  const auto progress = [this](double part) { loaded_percent_ = static_cast<int>(100 * part); };
  const Status read = LoadSnapshot(store, step, run_id, tables, records, pool_, progress);
  if (read.ok()) return read;
  std::string what = name + ": " + read.message();
  if (read.code() == Code::kDamaged) {
    const Status aside = OnStore([&] { return store.Quarantine(step); });
    what += aside.ok() ? "; it was set aside" : "; " + aside.message();
  }
  spdlog::error("{}", what);
  return {Code::kUnavailable, what};
}

}  // namespace mf
