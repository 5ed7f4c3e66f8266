#include "pserver/snapshots.h"

#include <algorithm>
#include <iterator>
#include <new>
#include <utility>

#include "common/logging.h"
#include "pserver/snapshot_format.h"

namespace mf {
namespace {
constexpr size_t kChunkBytes = 4 << 20;  // handed over between two requests: about 1 ms
}

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
  SnapshotChunk chunk;     // filled, not taken yet
};

Snapshots::Snapshots(SnapshotStore& store, SnapshotWriter& writer, Metrics* metrics)
    : store_(store), writer_(writer), metrics_(metrics) {}

Snapshots::~Snapshots() { GiveUp(); }

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
  GiveUp();
  const std::vector<uint64_t> published = store_.Published();
  if (sick_ && !std::binary_search(published.begin(), published.end(), last_step_)) {
    // What the failed one left may stand on a snapshot that is deleted: all is written anew.
    last_step_ = last_applied_ = 0;
    last_clock_ = kNothing;
    if (const Status reset = store_.Reset(0); !reset.ok()) {
      if (metrics_ != nullptr) metrics_->Count(Metric::kSnapshotFailures);
      return;  // still sick, which was said
    }
  }
  writing_ = std::make_unique<Writing>();
  writing_->info = info;
  writing_->tensors = &tensors;
  writing_->since = now;
  writing_->clock = clock.now++;
  // That of the last step again: its evaluation came later.
  std::copy_if(records.begin(), records.end(), std::back_inserter(writing_->records),
               [this](const StepRecord& record) { return record.step >= last_step_; });
  writing_->first_rate = last_applied_ + 1;
  for (uint64_t i = last_applied_ + 1; i <= history.count(); ++i) {
    writing_->rates.push_back(history.exact_lr(i));
  }
  try {
    for (const auto& tensor : tensors) tensor->BeginCut(last_clock_);
  } catch (const std::bad_alloc&) {
    for (const auto& tensor : tensors) tensor->EndCut();
    writing_.reset();
    spdlog::error("snapshot of step {}: not enough memory; the run goes on without it", info.step);
    if (metrics_ != nullptr) metrics_->Count(Metric::kSnapshotFailures);
    return;
  }
  writer_.Begin();
}

void Snapshots::FillChunk() {
  SnapshotChunk& chunk = writing_->chunk;
  const auto add = [&chunk](uint32_t space, uint64_t id, size_t bytes) {
    const size_t offset = chunk.values.size();
    chunk.values.resize(offset + bytes);
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
  if (writing_->published) {
    if (const auto outcome = writer_.Poll(); outcome.has_value()) Finish(*outcome, now);
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
  if (!outcome.status.ok()) {
    // Said once: a full disk stays full for many snapshots.
    if (!std::exchange(sick_, true)) {
      spdlog::error("snapshot of step {}: {}; the run goes on, later snapshots are tried", step,
                    outcome.status.message());
    }
    if (metrics_ != nullptr) metrics_->Count(Metric::kSnapshotFailures);
    return;
  }
  if (std::exchange(sick_, false)) spdlog::info("snapshot of step {}: they work again", step);
  last_step_ = step;
  last_applied_ = done->info.applied;
  last_clock_ = done->clock;
  spdlog::debug("snapshot of step {}: {} rows, {} bytes in {:.3f} s", step, outcome.stats.rows,
                outcome.stats.bytes, now - done->since);
  if (metrics_ == nullptr) return;
  metrics_->Observe(Metric::kSnapshotSeconds, now - done->since);
  metrics_->Set(Metric::kSnapshotBytes, static_cast<double>(outcome.stats.bytes));
  metrics_->Set(Metric::kSnapshotLastStep, static_cast<double>(step));
}

void Snapshots::GiveUp() {
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
  GiveUp();
  MF_RETURN_IF_ERROR(DeleteNewer(0));
  MF_RETURN_IF_ERROR(store_.Reset(0));
  clock = {};
  last_step_ = last_applied_ = 0;
  last_clock_ = kNothing;
  return Status::Ok();
}

Status Snapshots::Load(uint64_t step, const Tensors& tensors, UpdateHistory& history,
                       ChangeClock& clock, std::vector<StepRecord>* records) {
  GiveUp();
  MF_RETURN_IF_ERROR(DeleteNewer(step));
  Status read = Read(step, tensors, history, records);
  if (read.ok()) read = store_.Reset(step);
  if (!read.ok()) {
    const Status aside = store_.SetAside(step);
    return {Code::kUnavailable, "snapshot of step " + std::to_string(step) + ": " + read.message() +
                                    (aside.ok() ? "; it was set aside, an older one is taken"
                                                : "; " + aside.message())};
  }
  clock = {};
  last_step_ = step;
  last_applied_ = history.count();
  last_clock_ = 0;
  if (metrics_ != nullptr) {
    metrics_->Set(Metric::kSnapshotLastStep, static_cast<double>(step));
  }
  return Status::Ok();
}

Status Snapshots::Read(uint64_t step, const Tensors& tensors, UpdateHistory& history,
                       std::vector<StepRecord>* records) {
  const auto visit = [&](uint32_t space, uint64_t id, const std::byte* data,
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
  MF_ASSIGN_OR_RETURN(const SnapshotInfo info, store_.Read(step, visit));
  if (info.step != step || info.applied != history.count()) {
    return Status::Failed("it is of step " + std::to_string(info.step) + " with " +
                          std::to_string(history.count()) + " of " + std::to_string(info.applied) +
                          " applied steps");
  }
  return Status::Ok();
}

}  // namespace mf
