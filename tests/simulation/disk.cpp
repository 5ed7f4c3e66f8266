#include "tests/simulation/disk.h"

#include <utility>

#include "common/base/check.h"
#include "tests/support/failing_memory.h"

namespace mf::simulation {
namespace {

Status Missing(uint64_t step) {
  return Status::Failed("there is no snapshot of step " + std::to_string(step));
}
Status Damaged() { return {Code::kDamaged, "file 000012.sst is damaged"}; }

}  // namespace

std::vector<uint64_t> SimulatedStore::Published() const {
  std::vector<uint64_t> steps;
  for (const auto& [step, snapshot] : disk_.published) steps.push_back(step);
  return steps;
}

Result<SnapshotSummary> SimulatedStore::Summary(uint64_t step) const {
  MF_ASSIGN_OR_RETURN(SnapshotInfo info, Info(step));
  SnapshotSummary summary;
  summary.info = std::move(info);
  return summary;
}

Result<SnapshotInfo> SimulatedStore::Info(uint64_t step) const {
  const auto found = disk_.published.find(step);
  if (found == disk_.published.end()) return Missing(step);
  return found->second.info;
}

Result<std::unique_ptr<SnapshotCursor>> SimulatedStore::Open(uint64_t) const {
  return Status::Failed("not simulated");
}

Result<SnapshotInfo> SimulatedStore::Read(uint64_t step, const SnapshotVisit& visit) {
  const auto found = disk_.published.find(step);
  if (found == disk_.published.end()) return Missing(step);
  size_t left = found->second.entries.size() / 2;
  for (const auto& [key, value] : found->second.entries) {
    if (found->second.damaged && left-- == 0) return Damaged();
    MF_RETURN_IF_ERROR(
        visit(key.space, key.id, reinterpret_cast<const std::byte*>(value.data()), value.size()));
  }
  if (found->second.damaged) return Damaged();
  return found->second.info;
}

Status SimulatedStore::Begin() {
  MF_CHECK(usable_);  // the live database of the last process is not this one's
  increment_.clear();
  return Status::Ok();
}

Status SimulatedStore::Put(uint32_t space, uint64_t id, const void* data, size_t bytes) {
  const UnlimitedMemory memory;
  const SnapshotKey key{space, id};
  MF_CHECK(increment_.empty() || increment_.rbegin()->first < key);
  increment_.emplace_hint(increment_.end(), key,
                          std::string(static_cast<const char*>(data), bytes));
  return Status::Ok();
}

Status SimulatedStore::Remove(uint32_t space, uint64_t id) {
  const UnlimitedMemory memory;
  const SnapshotKey key{space, id};
  MF_CHECK(increment_.empty() || increment_.rbegin()->first < key);
  increment_.emplace_hint(increment_.end(), key, std::nullopt);
  return Status::Ok();
}

Status SimulatedStore::Publish(const SnapshotInfo& info) {
  const UnlimitedMemory memory;
  if (!disk_.full || failure_leaves_increment) {
    for (auto& [key, value] : increment_) {
      if (value.has_value()) {
        live_[key] = std::move(*value);
      } else {
        live_.erase(key);
      }
    }
  }
  increment_.clear();
  if (disk_.full) return Status::Failed("no space left on device");
  MF_CHECK(!disk_.published.contains(info.step));
  disk_.published[info.step] = {info, live_};
  return Status::Ok();
}

Status SimulatedStore::Delete(uint64_t step) {
  return disk_.published.erase(step) == 1 ? Status::Ok() : Missing(step);
}

Status SimulatedStore::Reset(uint64_t step) {
  const UnlimitedMemory memory;
  increment_.clear();
  live_.clear();
  if (step != 0) {
    const auto found = disk_.published.find(step);
    if (found == disk_.published.end()) return Missing(step);
    live_ = found->second.entries;
  }
  usable_ = true;
  return Status::Ok();
}

Status SimulatedStore::Quarantine(uint64_t step) { return Delete(step); }

void SimulatedWriter::Begin() {
  MF_CHECK(!open_ && !outcome_.has_value());
  open_ = true;
  ++increment_;
}

bool SimulatedWriter::Put(SnapshotChunk& chunk) {
  MF_CHECK(open_);
  if (busy) return false;
  const UnlimitedMemory memory;
  chunks_.push_back(std::exchange(chunk, {}));
  return true;
}

void SimulatedWriter::Publish(const SnapshotInfo& info) {
  MF_CHECK(open_);
  const UnlimitedMemory memory;
  info_ = info;
  begun_(increment_);
}

std::optional<SnapshotWriter::Outcome> SimulatedWriter::Poll() {
  if (!outcome_.has_value()) return std::nullopt;
  open_ = false;
  return std::exchange(outcome_, std::nullopt);
}

void SimulatedWriter::Abandon() {
  if (open_ && !outcome_.has_value()) store_.Abandon();
  open_ = false;
  chunks_.clear();
  info_.reset();
  outcome_.reset();
}

void SimulatedWriter::Complete(uint64_t increment) {
  if (!open_ || increment != increment_ || !info_.has_value()) return;
  Status status = store_.Begin();
  for (const SnapshotChunk& chunk : chunks_) {
    for (const SnapshotChunk::Entry& entry : chunk.entries) {
      if (!status.ok()) break;
      status = AddTo(store_, chunk, entry);
    }
  }
  if (status.ok()) status = store_.Publish(*info_);
  if (!status.ok()) store_.Abandon();
  chunks_.clear();
  info_.reset();
  outcome_ = Outcome{status, {}};
}

}  // namespace mf::simulation
