#include "tests/support/versioned_rows.h"

#include <cstring>
#include <string>
#include <vector>

#include "pserver/snapshot/snapshot_files.h"

namespace mf {
namespace {

constexpr uint64_t kRows = 600;
// Small, so that there are several tables in an increment and merges all the time.
constexpr RocksSnapshotOptions kOptions = {
    .file_bytes = 30000, .merge_ratio = 0.8, .merge_increments = 4};

uint64_t Mix(uint64_t x) {
  x = (x ^ x >> 31) * 0x9E3779B97F4A7C15ULL;
  x = (x ^ x >> 29) * 0xBF58476D1CE4E5B9ULL;
  return x ^ x >> 32;
}

bool Changes(uint64_t seed, uint64_t row, uint64_t step) {
  return step % 6 == 1 || Mix(seed + row * 1000003 + step) % 10 == 0;
}

std::string Value(uint64_t seed, uint64_t row, uint64_t step) {
  std::string value(240, '\0');
  for (size_t i = 0; i < value.size(); i += 8) {
    const uint64_t word = Mix(seed + row * 7919 + step * 104729 + i);
    std::memcpy(value.data() + i, &word, 8);
  }
  return value;
}

SnapshotKey KeyOf(uint64_t row) { return {static_cast<uint32_t>(row * 4 / kRows), row}; }

std::string RateOf(uint64_t step) { return std::string(8, static_cast<char>(step)); }

Status PublishStep(SnapshotStore& store, uint64_t seed, uint64_t step) {
  MF_RETURN_IF_ERROR(store.Begin());
  for (uint64_t row = 0; row < kRows; ++row) {
    if (!Changes(seed, row, step)) continue;
    const std::string value = Value(seed, row, step);
    const SnapshotKey key = KeyOf(row);
    MF_RETURN_IF_ERROR(store.Put(key.space, key.id, value.data(), value.size()));
  }
  const std::string rate = RateOf(step);
  MF_RETURN_IF_ERROR(store.Put(kRateSpace, step, rate.data(), rate.size()));
  return store.Publish(TestInfo(step));
}

}  // namespace

Entries VersionedRows(uint64_t seed, uint64_t step) {
  Entries state;
  for (uint64_t row = 0; row < kRows; ++row) {
    for (uint64_t s = step; s >= 1; --s) {
      if (!Changes(seed, row, s)) continue;
      state[KeyOf(row)] = Value(seed, row, s);
      break;
    }
  }
  for (uint64_t s = 1; s <= step; ++s) state[{kRateSpace, s}] = RateOf(s);
  return state;
}

Status PublishVersionedRows(const std::string& folder, uint64_t seed, uint64_t steps,
                            const std::function<Status(uint64_t step)>& published) {
  MF_ASSIGN_OR_RETURN(const auto store, OpenRocksSnapshots(folder, kOptions));
  const std::vector<uint64_t> found = store->Published();
  uint64_t step = found.empty() ? 0 : found.back();
  if (step % 2 == 0 && step > 0) {
    // As a server does, that loads what it goes on from.
    MF_RETURN_IF_ERROR(store->Read(step, [](auto&&...) { return Status::Ok(); }).status());
  }
  MF_RETURN_IF_ERROR(store->Reset(step));
  for (uint64_t i = 0; i < steps; ++i) {
    MF_RETURN_IF_ERROR(PublishStep(*store, seed, ++step));
    MF_RETURN_IF_ERROR(published(step));
    const std::vector<uint64_t> kept = store->Published();
    for (size_t k = 0; k + kVersionedKeep < kept.size(); ++k)
      MF_RETURN_IF_ERROR(store->Delete(kept[k]));
  }
  return Status::Ok();
}

Status CheckVersionedRows(const std::string& folder, uint64_t seed, uint64_t reported) {
  MF_ASSIGN_OR_RETURN(const auto reader, OpenRocksSnapshotReader(folder));
  const std::vector<uint64_t> steps = reader->Published();
  const uint64_t newest = steps.empty() ? 0 : steps.back();
  if (newest < reported || newest > reported + 1)
    return Status::Failed("step " + std::to_string(reported) + " was reported, the newest is " +
                          std::to_string(newest));
  if (steps.size() > kVersionedKeep + 1)
    return Status::Failed("too many steps: deletions are undone");
  if (newest > kVersionedKeep && steps.size() < kVersionedKeep)
    return Status::Failed("too few steps");
  if (!steps.empty() && steps.back() - steps.front() != steps.size() - 1)
    return Status::Failed("one between them is missing");
  for (const uint64_t step : steps) {
    MF_RETURN_IF_ERROR(reader->VerifyFiles(step));
    Entries found;
    MF_ASSIGN_OR_RETURN(const SnapshotInfo info, ReadEntries(*reader, step, &found));
    if (info.step != step || info.applied != TestInfo(step).applied)
      return Status::Failed("step " + std::to_string(step) + " says it is another");
    if (found != VersionedRows(seed, step))
      return Status::Failed("step " + std::to_string(step) + " is not the state after it");
  }
  return Status::Ok();
}

}  // namespace mf
