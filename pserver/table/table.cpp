#include "pserver/table/table.h"

#include <algorithm>
#include <cstring>

#include "common/base/random.h"
#include "common/kernels/generate.h"
#include "pserver/table/kernels/rows.h"

namespace mf {
namespace {
constexpr size_t kScratchChunkBytes = 4 << 20;
constexpr size_t kScratchChunksKept = 8;  // 32 MiB a table
// A plane of a sparse table grows by so much: little is touched in vain. Keyed tensors have 64
// tables, whatever they hold.
constexpr size_t kSparseChunkBytes = 64 << 10, kKeyedChunkBytes = 4 << 10;
constexpr uint32_t kRowsPerPause = 256;       // rows of a kilobyte: some tenths of a millisecond
constexpr uint32_t kSlotsPerPause = 1 << 16;  // that are only looked at
constexpr size_t kPrefetchedBytes = 512;      // of a row: the processor sees what follows
constexpr size_t kPrefetchAhead = 16;         // rows looked up ahead in a hash index
}  // namespace

void ReadScratch::Reset() {
  if (index_.size() > 0) index_.Clear();
  rows_.clear();
  if (chunks_.size() > kScratchChunksKept) chunks_.resize(kScratchChunksKept);
  chunk_ = 0;
  used_ = 0;
}

const void* ReadScratch::Find(uint64_t row) const {
  const uint32_t slot = index_.Find(row);
  return slot == RowIndex::kNone ? nullptr : rows_[slot];
}

void* ReadScratch::Add(uint64_t row, size_t bytes) {
  MF_CHECK(bytes <= kScratchChunkBytes);  // RunDescription::Check keeps rows below that
  bytes = (bytes + 63) / 64 * 64;
  if (used_ + bytes > kScratchChunkBytes) {
    ++chunk_;
    used_ = 0;
  }
  if (chunk_ == chunks_.size()) chunks_.emplace_back(kScratchChunkBytes);
  void* memory = chunks_[chunk_].as<std::byte>() + used_;
  used_ += bytes;
  index_.Insert(row);
  rows_.push_back(memory);
  return memory;
}

Table::Table(const TensorLayout& layout, int64_t k, Storage storage, const ChangeClock& clock,
             uint64_t seed, PageArena& arena, PageArena* moments_arena)
    : layout_(layout),
      k_(k),
      storage_(storage),
      optimizer_(layout.spec),
      format_(layout.spec, layout.share),
      key_(RandomKey(seed, layout.spec.id)),
      clock_(clock) {
  const uint64_t rows = static_cast<uint64_t>(layout.spec.rows);
  const auto plane = [&](size_t numbers, size_t number_bytes, PageArena& place) {
    const size_t bytes = numbers * number_bytes;
    if (storage == Storage::kDirect) return Slots::Fixed(place, bytes, rows);
    const bool keyed = layout.spec.kind == TensorKind::kKeyed;
    const size_t chunk = keyed ? kKeyedChunkBytes : kSparseChunkBytes;
    return Slots(place, bytes, std::max<size_t>(1, chunk / bytes));
  };
  weights_ = plane(layout.stride, split() ? sizeof(uint16_t) : sizeof(float), arena);
  if (split()) weights_low_ = plane(layout.stride, sizeof(int16_t), arena);
  for (int i = 0; i < optimizer_.moments(); ++i) {
    moments_[i] = plane(MomentFloats(layout, i), sizeof(float),
                        moments_arena != nullptr ? *moments_arena : arena);
  }
  if (storage == Storage::kDirect) {
    updated_at_.assign(rows, kNeverUpdated);
    changed_at_.assign(rows, 0);
  } else {
    index_ = RowIndex(UINT64_MAX);
  }
}

void Table::ReserveSlots(size_t count) {
  weights_.Reserve(count);
  if (split()) weights_low_.Reserve(count);
  for (int i = 0; i < optimizer_.moments(); ++i) moments_[i].Reserve(count);
}

void Table::Fill(uint64_t begin, uint64_t end) {
  std::vector<float> temporary;
  for (uint64_t row = begin; row < end; ++row) {
    GenerateInto(row, static_cast<uint32_t>(row), temporary);
  }
}

void Table::GenerateInto(uint64_t row, uint32_t slot, std::vector<float>& temporary) {
  const WeightRow weights = WeightsAt(slot);
  if (!weights.split()) {
    Generate(row, weights.f32);
    return;
  }
  temporary.resize(layout_.stride);
  Generate(row, temporary.data());
  SplitRow(temporary.data(), weights, layout_.stride);
}

void Table::Generate(uint64_t row, float* out) const {
  if (layout_.spec.init == Init::kNormal) {
    const uint64_t global_row =
        static_cast<uint64_t>(k_) * static_cast<uint64_t>(layout_.spec.rows) + row;
    GenerateNormal(key_, global_row, static_cast<size_t>(layout_.share.columns.begin),
                   static_cast<size_t>(layout_.share.columns.end), layout_.spec.init_value, 1.0,
                   out);
    return;
  }
  std::fill_n(out, layout_.width(), static_cast<float>(layout_.spec.init_value));
  std::fill(out + layout_.width(), out + layout_.stride, 0.0f);
}

WeightRow Table::WeightsAt(size_t slot) const {
  if (!split()) return weights_.at<float>(slot);
  return {weights_.at<uint16_t>(slot), weights_low_.at<int16_t>(slot)};
}

RowState Table::StateAt(size_t slot) const {
  RowState state{.w = WeightsAt(slot)};
  for (int i = 0; i < optimizer_.moments(); ++i) state.moments[i] = moments_[i].at<float>(slot);
  return state;
}

const void* Table::VisibleAt(size_t slot) const { return weights_.at<void>(slot); }

void Table::ReadMany(std::span<const uint32_t> rows, bool training, const TensorHistory& history,
                     ReadScratch& scratch, const void** out) {
  const double untouched = NeverUpdated(history);
  if (storage_ == Storage::kSparse) {
    for (size_t i = 0; i < rows.size(); ++i) {
      if (i + kPrefetchAhead < rows.size()) index_.Prefetch(rows[i + kPrefetchAhead]);
      out[i] = ReadAt(rows[i], training, history, untouched, scratch);
    }
    return;
  }
  // Nearly all pairs of a training meet rows that stand as they are to be read.
  const uint32_t count = static_cast<uint32_t>(history.count());
  const uint32_t also = untouched == 1.0 ? kNeverUpdated : count;
  for (size_t i = 0; i < rows.size(); ++i) {
    const uint32_t row = rows[i], at = updated_at_[row];
    out[i] = at == count || at == also ? VisibleAt(row)
                                       : ReadAt(row, training, history, untouched, scratch);
  }
}

void Table::PrefetchRow(uint64_t row) const {
  const uint32_t slot = SlotOf(row);
  if (slot == RowIndex::kNone) return;
  __builtin_prefetch(&updated_at_[slot]);
  const char* weights = static_cast<const char*>(VisibleAt(slot));
  const size_t bytes = layout_.stride * (split() ? sizeof(uint16_t) : sizeof(float));
  for (size_t at = 0; at < std::min<size_t>(bytes, kPrefetchedBytes); at += 64)
    __builtin_prefetch(weights + at);
}

const void* Table::ReadAt(uint64_t row, bool training, const TensorHistory& history,
                          double untouched, ReadScratch& scratch) {
  const uint32_t slot = SlotOf(row);
  const uint64_t count = history.count();
  const uint32_t at = slot == RowIndex::kNone ? kNeverUpdated : updated_at_[slot];
  if (at == count) return VisibleAt(slot);
  if (at == kNeverUpdated) {
    if (untouched == 1.0 && slot != RowIndex::kNone) return VisibleAt(slot);
    if (const void* made = scratch.Find(row); made != nullptr) return made;
    return MakeNeverUpdated(row, slot, untouched, scratch);
  }
  if (!optimizer_.exact()) return VisibleAt(slot);
  if (training) {
    BeforeWrite(slot);
    optimizer_.CatchUp(history, at, count, StateAt(slot), Columns());
    updated_at_[slot] = static_cast<uint32_t>(count);
    return VisibleAt(slot);
  }
  if (const void* made = scratch.Find(row); made != nullptr) return made;
  return MakeCaughtUp(row, slot, history, scratch);
}

/// Generated first and scaled second, so that direct and sparse tables round the same way.
const void* Table::MakeNeverUpdated(uint64_t row, uint32_t slot, double factor,
                                    ReadScratch& scratch) const {
  const size_t stride = layout_.stride;
  const float scale = static_cast<float>(factor);
  if (!split()) {
    float* out = static_cast<float*>(scratch.Add(row, stride * sizeof(float)));
    if (slot == RowIndex::kNone) {
      Generate(row, out);
      if (factor != 1.0) ScaleWeights(out, scale, stride);
    } else {
      ScaleInto(out, weights_.at<float>(slot), scale, stride);
    }
    return out;
  }
  uint16_t* out = static_cast<uint16_t*>(scratch.Add(row, stride * sizeof(uint16_t)));
  if (slot == RowIndex::kNone) {
    float* generated = scratch.Temporary(stride);
    Generate(row, generated);
    RoundScaledInto(out, generated, scale, stride);
  } else {
    RoundScaledInto(out, WeightsAt(slot), scale, stride);
  }
  return out;
}

const void* Table::MakeCaughtUp(uint64_t row, uint32_t slot, const TensorHistory& history,
                                ReadScratch& scratch) const {
  const size_t stride = layout_.stride;
  void* const out = scratch.Add(row, stride * (split() ? sizeof(uint16_t) : sizeof(float)));
  const RowState stored = StateAt(slot);
  float* const temporary = scratch.Temporary((1 + kMomentsMax) * stride);
  RowState copy;
  for (int i = 0; i < optimizer_.moments(); ++i) {
    copy.moments[i] = temporary + static_cast<size_t>(1 + i) * stride;
    std::memcpy(copy.moments[i], stored.moments[i], MomentFloats(layout_, i) * sizeof(float));
  }
  copy.w = split() ? temporary : static_cast<float*>(out);
  if (split()) {
    JoinRow(stored.w, temporary, stride);
  } else {
    std::memcpy(out, stored.w.f32, stride * sizeof(float));
  }
  optimizer_.CatchUp(history, updated_at_[slot], history.count(), copy, Columns());
  if (split()) RoundScaledInto(static_cast<uint16_t*>(out), copy.w, 1.0f, stride);
  return out;
}

void Table::Materialise(const std::vector<Gradients::Hit>& hits,
                        const std::function<void()>& pause) {
  if (storage_ == Storage::kDirect) return;
  step_slots_.resize(hits.size());
  std::vector<float> temporary;
  for (size_t i = 0; i < hits.size(); ++i) {
    if (i + kPrefetchAhead < hits.size()) index_.Prefetch(hits[i + kPrefetchAhead].row);
    const uint32_t slot = index_.Insert(hits[i].row, pause);
    step_slots_[i] = slot;
    if (slot < updated_at_.size()) {
      if (updated_at_[slot] != kNeverUpdated) continue;
      for (int m = 0; m < optimizer_.moments(); ++m) {  // of the row that had it before
        std::fill_n(moments_[m].at<float>(slot), MomentFloats(layout_, m), 0.0f);
      }
    } else {
      ReserveSlots(slot + 1);
      updated_at_.push_back(kNeverUpdated);
      changed_at_.push_back(0);
    }
    GenerateInto(hits[i].row, slot, temporary);
    if (slot % kRowsPerPause == 0) pause();
  }
}

void Table::Update(const Gradients& gradients, size_t begin, size_t end,
                   const TensorHistory& history, double lr, float gradient_scale) {
  const uint64_t count = history.count();
  const double untouched = optimizer_.NeverUpdatedFactor(history);
  uint64_t fresh = 0;
  for (size_t i = begin; i < end; ++i) {
    const Gradients::Hit& hit = gradients.hits()[i];
    const uint32_t slot =
        storage_ == Storage::kDirect ? static_cast<uint32_t>(hit.row) : step_slots_[i];
    BeforeWrite(slot);
    const RowState state = StateAt(slot);
    if (updated_at_[slot] == kNeverUpdated) {
      ++fresh;
      if (untouched != 1.0) ScaleWeights(state.w, static_cast<float>(untouched), layout_.stride);
    } else {
      optimizer_.CatchUp(history, updated_at_[slot], count, state, Columns());
    }
    optimizer_.Step(history, lr, gradient_scale, gradients.gradient(hit), state, Columns());
    updated_at_[slot] = static_cast<uint32_t>(count + 1);
  }
  updated_.fetch_add(fresh, std::memory_order_relaxed);
}

uint64_t Table::Expire(uint32_t last, const std::function<void()>& pause) {
  uint64_t expired = 0;
  for (uint32_t slot = 0; slot < updated_at_.size(); ++slot) {
    if (slot % kSlotsPerPause == kSlotsPerPause - 1) pause();
    if (updated_at_[slot] == kNeverUpdated || updated_at_[slot] > last) continue;
    const uint64_t row = index_.rows()[slot];
    removed_.Add(row, clock_.now);  // first: memory may end
    if (cut_ != nullptr) CopyForSnapshot(slot);
    index_.Erase(row);
    updated_at_[slot] = kNeverUpdated;
    changed_at_[slot] = 0;
    if (++expired % kRowsPerPause == 0) pause();
  }
  updated_.fetch_sub(expired, std::memory_order_relaxed);
  return expired;
}

void Table::Settle(const TensorHistory& history) {
  const auto count = static_cast<uint32_t>(history.count());
  for (size_t slot = 0; slot < updated_at_.size(); ++slot) {
    const uint32_t at = updated_at_[slot];
    if (at == kNeverUpdated || at == count) continue;
    if (optimizer_.exact()) optimizer_.CatchUp(history, at, count, StateAt(slot), Columns());
    updated_at_[slot] = count;
  }
  for (Slots& moments : moments_) moments = Slots();
}

std::array<float*, 1 + kMomentsMax> Table::PlanesAt(uint32_t slot) const {
  const RowState state = StateAt(slot);
  std::array<float*, 1 + kMomentsMax> planes = {state.w.f32};
  std::copy(std::begin(state.moments), std::end(state.moments), planes.begin() + 1);
  return planes;
}

void Table::EncodeSlot(uint32_t slot, std::byte* out) const {
  const auto planes = PlanesAt(slot);
  format_.Encode(updated_at_[slot], planes.data(), out);
  if (split()) JoinRow(WeightsAt(slot), format_.PlaneIn(out, 0), layout_.width());
}

void Table::CopyForSnapshot(uint32_t slot) {
  if (std::byte* place = cut_->CopyPlace(slot); place != nullptr) EncodeSlot(slot, place);
}

size_t Table::BeginCut(int64_t since) {
  MF_CHECK(cut_ == nullptr);
  std::vector<TableCut::Row> rows;
  for (size_t slot = 0; slot < changed_at_.size(); ++slot) {
    // A slot that Materialise() made and no step has updated yet is no state.
    if (changed_at_[slot] <= since || updated_at_[slot] == kNeverUpdated) continue;
    const uint64_t row = storage_ == Storage::kDirect ? slot : index_.rows()[slot];
    rows.push_back({row, static_cast<uint32_t>(slot)});
  }
  removed_.Expect();
  for (const uint64_t row : removed_.Since(since, [this](uint64_t row) { return Has(row); })) {
    rows.push_back({row, TableCut::kRemoved});
  }
  if (storage_ == Storage::kSparse) {
    std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.row < b.row; });
  }
  cut_ = std::make_unique<TableCut>(std::move(rows), changed_at_.size(), format_.bytes());
  return cut_->size();
}

bool Table::NextCutRow(uint64_t* row, bool* removed, std::byte* out) {
  return cut_->Next(row, removed, out,
                    [this](uint32_t slot, std::byte* to) { EncodeSlot(slot, to); });
}

Status Table::Restore(uint64_t row, const std::byte* data, size_t bytes) {
  uint32_t slot = static_cast<uint32_t>(row);
  if (storage_ == Storage::kSparse) {
    slot = index_.Insert(row);
    ReserveSlots(slot + 1);
    updated_at_.resize(index_.size(), kNeverUpdated);
    changed_at_.resize(index_.size(), 0);
  }
  removed_.Expect();
  const bool fresh = updated_at_[slot] == kNeverUpdated;
  MF_RETURN_IF_ERROR(format_.Decode(data, bytes, &updated_at_[slot], PlanesAt(slot).data()));
  if (split()) SplitRow(format_.PlaneIn(data, 0), WeightsAt(slot), layout_.width());
  if (fresh && updated_at_[slot] != kNeverUpdated) ++updated_;
  return Status::Ok();
}

std::vector<uint64_t> Table::UpdatedRows(uint64_t begin, uint64_t most) const {
  std::vector<uint64_t> rows;
  if (storage_ == Storage::kDirect) {
    for (uint64_t row = begin; row < updated_at_.size() && rows.size() < most; ++row) {
      if (updated_at_[row] != kNeverUpdated) rows.push_back(row);
    }
    return rows;
  }
  for (const uint64_t row : index_.rows()) {
    if (row >= begin && row != RowIndex::kNoRow) rows.push_back(row);
  }
  if (rows.size() > most) {
    std::nth_element(rows.begin(), rows.begin() + static_cast<ptrdiff_t>(most), rows.end());
    rows.resize(most);
  }
  std::sort(rows.begin(), rows.end());
  return rows;
}

uint64_t Table::bytes() const { return DirectBytes(layout_, updated_at_.size()) + index_.bytes(); }

size_t Table::MomentFloats(const TensorLayout& layout, int moment) {
  return Optimizer(layout.spec).by_block(moment) ? layout.share.blocks.size() : layout.stride;
}

uint64_t Table::DirectBytes(const TensorLayout& layout, uint64_t rows) {
  uint64_t floats = layout.stride;  // a split weight takes as much as one of f32
  for (int i = 0; i < Optimizer(layout.spec).moments(); ++i) floats += MomentFloats(layout, i);
  return rows * (floats * sizeof(float) + 2 * sizeof(uint32_t));
}

}  // namespace mf
