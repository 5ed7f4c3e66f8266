#include "pserver/snapshot/snapshots.h"

#include <algorithm>
#include <iterator>
#include <new>
#include <utility>

#include "common/base/logging.h"
#include "pserver/snapshot/snapshot_format.h"

namespace mf {
namespace {
constexpr double kSlowSeconds = 600;     // for a snapshot: longer is told
constexpr size_t kChunkBytes = 4 << 20;  // handed over between two requests: about 1 ms
}  // namespace

/// One snapshot on its way.
struct Snapshots::Writing {
  SnapshotInfo info;
  const Tensors* tensors;
  uint32_t clock;  // at the cut
  double since;
  size_t tensor = 0;          // whose rows are being handed over
  std::vector<double> rates;  // of applied steps first_rate, ...
  uint64_t first_rate = 1;
  std::vector<StepRecord> records;
  bool all_rows = false;
  bool published = false;  // the writer knows that nothing more comes
  bool said = false;       // that it takes long
  SnapshotChunk chunk;     // filled, not taken yet
};

Snapshots::Snapshots(SnapshotStore& store, SnapshotWriter& writer, Metrics* metrics)
    : store_(store), writer_(writer), metrics_(metrics) {
  if (metrics != nullptr) metrics->Count(Metric::kSnapshotFailures, {}, 0);
}

Snapshots::~Snapshots() { AbandonCurrent(); }

uint64_t Snapshots::writing() const { return writing_ == nullptr ? 0 : writing_->info.step; }

std::optional<SnapshotInfo> Snapshots::NewestInfo() const {
  const std::vector<uint64_t> published = store_.Published();
  for (auto step = published.rbegin(); step != published.rend(); ++step) {
    if (auto info = store_.Info(*step); info.ok()) return std::move(info).value();
  }
  return std::nullopt;
}

void Snapshots::Begin(const SnapshotInfo& info, const Tensors& tensors,
                      const UpdateHistory& history, const std::vector<StepRecord>& records,
                      ChangeClock& clock, double now) {
  if (writing_ != nullptr) {
    // The last step of a run: its state stays, so the order can wait until the writer is done.
    next_ = [=, this, &tensors, &history, &clock](double then) {
      Begin(info, tensors, history, records, clock, then);
    };
    return;
  }
  const std::vector<uint64_t> published = store_.Published();
  if (failing_ && !std::binary_search(published.begin(), published.end(), last_step_)) {
    // What the failed one left may stand on a snapshot that is deleted: all is written anew.
    last_step_ = last_applied_ = 0;
    last_clock_ = kNothing;
    if (const Status reset = store_.Reset(0); !reset.ok()) return Failed(info.step, reset);
  }
  try {
    auto writing = std::make_unique<Writing>();
    writing->info = info;
    writing->tensors = &tensors;
    writing->since = now;
    writing->clock = clock.now++;
    // That of the last step again: its evaluation came later.
    std::copy_if(records.begin(), records.end(), std::back_inserter(writing->records),
                 [this](const StepRecord& record) { return record.step >= last_step_; });
    writing->first_rate = last_applied_ + 1;
    for (uint64_t i = last_applied_ + 1; i <= history.count(); ++i) {
      writing->rates.push_back(history.rate(i));
    }
    for (const auto& tensor : tensors) tensor->BeginCut(last_clock_);
    writing_ = std::move(writing);
  } catch (const std::bad_alloc&) {
    for (const auto& tensor : tensors) tensor->EndCut();
    return Failed(info.step, Status::Failed("not enough memory"));
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
    return &chunk.values[offset];
  };
  std::vector<std::byte> row;
  for (; writing_->tensor < writing_->tensors->size(); ++writing_->tensor) {
    TensorShard& tensor = *(*writing_->tensors)[writing_->tensor];
    row.resize(tensor.row_bytes());
    uint64_t id = 0;
    while (chunk.values.size() < kChunkBytes) {
      if (!tensor.NextCutRow(&id, row.data())) break;
      std::copy(row.begin(), row.end(), add(tensor.layout().spec.id, id, row.size()));
    }
    if (chunk.values.size() >= kChunkBytes) return;
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
  if (writing_ == nullptr) return false;
  if (!writing_->said && now - writing_->since > kSlowSeconds) {
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
  writer_.Abandon();
  for (const auto& tensor : *writing_->tensors) tensor->EndCut();
  writing_.reset();
}

void Snapshots::Discard(const std::vector<uint64_t>& steps) {
  const std::vector<uint64_t> published = store_.Published();
  for (const uint64_t step : steps) {
    if (!std::binary_search(published.begin(), published.end(), step)) continue;
    // What is being written stands on the newest. It will be said again.
    if (writing() != 0 && step == published.back()) continue;
    if (const Status deleted = store_.Delete(step); !deleted.ok()) {
      spdlog::error("snapshot of step {}: {}", step, deleted.message());
    }
  }
}

Status Snapshots::DeleteNewer(uint64_t step) {
  for (const uint64_t published : store_.Published()) {
    if (published > step) MF_RETURN_IF_ERROR(store_.Delete(published));
  }
  return Status::Ok();
}

Status Snapshots::Clear(ChangeClock& clock) {
  AbandonCurrent();
  MF_RETURN_IF_ERROR(DeleteNewer(0));
  MF_RETURN_IF_ERROR(store_.Reset(0));
  clock = {};
  last_step_ = last_applied_ = 0;
  last_clock_ = kNothing;
  return Status::Ok();
}

Status Snapshots::Load(uint64_t step, const std::string& run_id, const Tensors& tensors,
                       UpdateHistory& history, ChangeClock& clock,
                       std::vector<StepRecord>* records) {
  AbandonCurrent();
  MF_RETURN_IF_ERROR(DeleteNewer(step));
  if (const Status read = Read(step, run_id, tensors, history, records); !read.ok()) {
    std::string what = "snapshot of step " + std::to_string(step) + ": " + read.message();
    if (read.code() == Code::kDamaged) {
      const Status aside = store_.Quarantine(step);
      what += aside.ok() ? "; it was set aside" : "; " + aside.message();
    }
    spdlog::error("{}", what);
    return {Code::kUnavailable, what};
  }
  MF_RETURN_IF_ERROR(store_.Reset(step));
  clock = {};
  last_step_ = step;
  last_applied_ = history.count();
  last_clock_ = 0;
  saved_at_.reset();
  if (metrics_ != nullptr) {
    metrics_->Set(Metric::kSnapshotLastStep, static_cast<double>(step));
  }
  return Status::Ok();
}

Status Snapshots::Read(uint64_t step, const std::string& run_id, const Tensors& tensors,
                       UpdateHistory& history, std::vector<StepRecord>* records) {
  const auto take = [&](uint32_t space, uint64_t id, const std::byte* data,
                        size_t bytes) -> Status {
    if (space == kRateSpace) {
      MF_ASSIGN_OR_RETURN(const double lr, DecodeRate(data, bytes));
      if (id != history.count() + 1) {
        return Status::Failed("rate of step " + std::to_string(history.count() + 1) + " missing");
      }
      history.Append(lr);
      return Status::Ok();
    }
    if (space == kRecordSpace) {
      MF_ASSIGN_OR_RETURN(const StepRecord record, DecodeRecord(id, data, bytes));
      records->push_back(record);
      return Status::Ok();
    }
    if (space >= tensors.size()) return Status::Failed("entries of an unknown kind");
    return tensors[space]->Restore(id, data, bytes);
  };
  // Checksums are right by then: what does not fit is no snapshot of this run.
  const auto visit = [&](uint32_t space, uint64_t id, const std::byte* data, size_t bytes) {
    const Status taken = take(space, id, data, bytes);
    return taken.ok() ? taken : Status(Code::kDamaged, taken.message());
  };
  MF_ASSIGN_OR_RETURN(const SnapshotInfo info, store_.Read(step, visit));
  if (info.step != step || info.applied != history.count() || info.run_id != run_id) {
    return Status(Code::kDamaged, "it is of step " + std::to_string(info.step) + " of run " +
                                      info.run_id + " with " + std::to_string(history.count()) +
                                      " of " + std::to_string(info.applied) + " applied steps");
  }
  return Status::Ok();
}

}  // namespace mf
