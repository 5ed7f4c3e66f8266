#include "pserver/shard/initial_state.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <string>

#include "common/base/buffer.h"
#include "common/base/logging.h"
#include "pserver/snapshot/snapshot_format.h"
#include "pserver/table/optimizer.h"

namespace mf {
namespace {
Status Bad(const std::string& what) { return Status::Invalid("initial state: " + what); }
}  // namespace

InitialState::InitialState(SnapshotStore& store, ThreadPool& pool, const RunDescription& run,
                           SnapshotInfo info)
    : store_(store), pool_(pool), run_(run), info_(std::move(info)) {
  for (const TensorSpec& spec : run.tensors) {
    layouts_.push_back(LayoutOf(spec, run.rules.column_blocks, info_.shard, info_.shards));
  }
}

size_t InitialState::RowBytesOf(uint32_t tensor) const {
  return RowFormat(run_.tensors[tensor], layouts_[tensor].share).bytes();
}

Status InitialState::Take(const InitialiseRequest& request, const Frames& payload, uint64_t session,
                          double now) {
  if (there() || request.attempt == 0) return Status::Ok();
  if (request.attempt != attempt_) {
    if (attempt_ != 0 && session != session_ && now - heard_ < kSilentSeconds) {
      return {Code::kUnavailable, "another worker is bringing the state that the run begins with"};
    }
    if (request.part != 0) return {Code::kStale, "this attempt to bring the state has ended"};
    attempt_ = request.attempt;
    session_ = session;
    parts_ = rows_ = 0;
    next_ = {};
    last_update_ = 0;
  }
  heard_ = now;
  if (request.part + 1 == parts_) return Status::Ok();
  Status written;
  if (request.part != parts_) written = {Code::kStale, "a part of the state is missing"};
  try {
    if (written.ok()) {
      pool_.RunAside([&] { written = Write(request, payload); });
    }
  } catch (const std::bad_alloc&) {
    attempt_ = 0;  // half of the part is written
    throw;
  }
  if (written.ok()) {
    ++parts_;
    return written;
  }
  attempt_ = 0;
  pool_.RunAside([&] { store_.Abandon(); });
  return written;
}

namespace {

/// The lowest row that may come after one.
std::pair<uint32_t, uint64_t> After(uint32_t tensor, uint64_t row) {
  return row == UINT64_MAX ? std::pair(tensor + 1, uint64_t{0}) : std::pair(tensor, row + 1);
}

}  // namespace

Status InitialState::Write(const InitialiseRequest& request, const Frames& payload) {
  if (request.part == 0) {
    // Whatever a failed attempt, or somebody else, may have left.
    for (const uint64_t step : store_.Published()) MF_RETURN_IF_ERROR(store_.Delete(step));
    MF_RETURN_IF_ERROR(store_.Reset(0));
    MF_RETURN_IF_ERROR(store_.Begin());
  }
  if (payload.size() != (request.last ? 3u : 2u)) return Bad("frames are missing");
  if (RowsIn(payload) > 0 || !request.last) {
    MF_RETURN_IF_ERROR(CheckRows(request, payload));
    MF_RETURN_IF_ERROR(Put(request, payload));
  }
  if (!request.last) return Status::Ok();
  MF_RETURN_IF_ERROR(PutRates(payload[2]));
  MF_RETURN_IF_ERROR(store_.Publish(info_));
  spdlog::info("the state that this run begins with is saved: {} rows", rows_);
  return Status::Ok();
}

Status InitialState::CheckRows(const InitialiseRequest& request, const Frames& payload) const {
  if (request.tensor >= run_.tensors.size()) return Bad("there is no such tensor");
  const TensorSpec& spec = run_.tensors[request.tensor];
  const uint64_t rows = RowsIn(payload);
  const bool none = rows == 0 && spec.kind != TensorKind::kKeyed;  // it may be others' turn
  if (none || payload[0].size() % sizeof(uint64_t) != 0 ||
      payload[1].size() != rows * RowBytesOf(request.tensor)) {
    return Bad("frames of the wrong size for " + spec.name);
  }
  std::pair<uint32_t, uint64_t> lowest = next_;
  for (uint64_t i = 0; i < rows; ++i) {
    const auto row = LoadUnaligned<uint64_t>(payload[0].data(), i);
    if (!layouts_[request.tensor].Has(row) || std::pair(request.tensor, row) < lowest) {
      return Bad("rows of " + spec.name + " must rise and be this server's");
    }
    lowest = After(request.tensor, row);
  }
  return Status::Ok();
}

Status InitialState::Put(const InitialiseRequest& request, const Frames& payload) {
  const size_t bytes = RowBytesOf(request.tensor);
  for (uint64_t i = 0; i < RowsIn(payload); ++i) {
    const auto row = LoadUnaligned<uint64_t>(payload[0].data(), i);
    const std::byte* state = payload[1].data() + i * bytes;
    last_update_ = std::max(last_update_, LoadUnaligned<uint32_t>(state, 0));
    MF_RETURN_IF_ERROR(store_.Put(request.tensor, row, state, bytes));
    next_ = After(request.tensor, row);
    ++rows_;
  }
  return Status::Ok();
}

Status InitialState::PutRates(const Frame& rates) {
  info_.applied = rates.size() / sizeof(double);
  if (rates.size() % sizeof(double) != 0 || last_update_ > info_.applied) {
    return Bad("a row was updated in applied step " + std::to_string(last_update_) + " of " +
               std::to_string(info_.applied));
  }
  for (uint64_t i = 0; i < info_.applied; ++i) {
    const auto rate = LoadUnaligned<double>(rates.data(), i);
    if (!std::isfinite(rate)) return Bad("a learning rate that is not finite");
    std::byte entry[kRateBytes];
    EncodeRate(rate, entry);
    MF_RETURN_IF_ERROR(store_.Put(kRateSpace, i + 1, entry, kRateBytes));
  }
  return Status::Ok();
}

}  // namespace mf
