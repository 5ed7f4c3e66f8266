#include "pserver/table.h"

#include <algorithm>
#include <cstring>

#include "common/kernels/generate.h"
#include "common/random.h"
#include "pserver/kernels/optimizer.h"
#include "pserver/snapshot_format.h"

namespace mf {
namespace {
constexpr size_t kScratchChunkFloats = 1 << 20;  // 4 MiB
constexpr size_t kScratchChunksKept = 8;         // 32 MiB a table
constexpr size_t kSparseChunkFloats = 1 << 16;   // 256 KiB a plane: little is touched in vain
}  // namespace

void ReadScratch::Reset() {
  if (index_.size() > 0) index_.Clear();
  rows_.clear();
  if (chunks_.size() > kScratchChunksKept) chunks_.resize(kScratchChunksKept);
  chunk_ = 0;
  used_ = 0;
}

const float* ReadScratch::Find(uint64_t row) const {
  const uint32_t slot = index_.Find(row);
  return slot == RowIndex::kNone ? nullptr : rows_[slot];
}

float* ReadScratch::Add(uint64_t row, size_t floats) {
  MF_CHECK(floats <= kScratchChunkFloats);  // CheckConfig keeps rows below that
  if (used_ + floats > kScratchChunkFloats) {
    ++chunk_;
    used_ = 0;
  }
  if (chunk_ == chunks_.size()) chunks_.emplace_back(kScratchChunkFloats * sizeof(float));
  float* memory = chunks_[chunk_].as<float>() + used_;
  used_ += floats;
  index_.Insert(row);
  rows_.push_back(memory);
  return memory;
}

Table::Table(const TensorLayout& layout, int64_t k, Storage storage, const Optimizer& optimizer,
             const ChangeClock& clock, uint64_t seed)
    : layout_(layout),
      k_(k),
      storage_(storage),
      optimizer_(optimizer),
      key_(RandomKey(seed, layout.spec.id)),
      clock_(clock) {
  const uint64_t rows = static_cast<uint64_t>(layout.spec.rows);
  const size_t chunk =
      storage == Storage::kDirect ? rows : std::max<size_t>(16, kSparseChunkFloats / layout.stride);
  for (int plane = 0; plane < optimizer.planes(); ++plane) {
    planes_[plane] = FloatSlots(layout.stride, chunk);
    if (storage == Storage::kDirect) planes_[plane].Reserve(rows);
  }
  if (storage == Storage::kDirect) {
    updated_at_.assign(rows, kNeverUpdated);
    changed_at_.assign(rows, 0);
  } else {
    index_ = RowIndex(UINT64_MAX);
  }
}

void Table::Fill(uint64_t begin, uint64_t end) {
  for (uint64_t row = begin; row < end; ++row) Generate(row, planes_[0].at(row));
}

void Table::Generate(uint64_t row, float* out) const {
  if (layout_.spec.init == Init::kNormal) {
    const uint64_t global_row = static_cast<uint64_t>(k_ * layout_.spec.rows) + row;
    GenerateNormal(key_, global_row, static_cast<size_t>(layout_.columns.begin),
                   static_cast<size_t>(layout_.columns.end), layout_.spec.init_value, 1.0, out);
    return;
  }
  std::fill_n(out, layout_.width(), static_cast<float>(layout_.spec.init_value));
  std::fill(out + layout_.width(), out + layout_.stride, 0.0f);
}

RowState Table::StateAt(size_t slot) const {
  RowState state;
  state.w = planes_[0].at(slot);
  if (optimizer_.planes() == 3) {
    state.m = planes_[1].at(slot);
    state.v = planes_[2].at(slot);
  }
  return state;
}

const float* Table::Read(uint64_t row, bool training, const UpdateHistory& history,
                         ReadScratch& scratch) {
  const uint32_t slot = SlotOf(row);
  const uint64_t count = history.count();
  if (slot != RowIndex::kNone) {
    const uint32_t at = updated_at_[slot];
    if (at == count) return planes_[0].at(slot);
    if (at != kNeverUpdated) {
      if (!optimizer_.exact()) return planes_[0].at(slot);
      if (training) {
        WillWrite(slot);
        optimizer_.CatchUp(history, layout_.spec.weight_decay, at, count, StateAt(slot),
                           layout_.stride);
        updated_at_[slot] = static_cast<uint32_t>(count);
        return planes_[0].at(slot);
      }
    }
  }
  const double factor = optimizer_.UntouchedFactor(history, layout_.spec.weight_decay, count);
  const bool untouched = slot == RowIndex::kNone || updated_at_[slot] == kNeverUpdated;
  if (untouched && factor == 1.0 && slot != RowIndex::kNone) return planes_[0].at(slot);
  if (const float* made = scratch.Find(row); made != nullptr) return made;
  float* out = scratch.Add(row, layout_.stride);
  if (!untouched) {
    const RowState stored = StateAt(slot);
    RowState copy{.w = out};
    std::memcpy(out, stored.w, layout_.stride * sizeof(float));
    if (stored.m != nullptr) {
      copy.m = scratch.Moments(layout_.stride);
      copy.v = copy.m + layout_.stride;
      std::memcpy(copy.m, stored.m, layout_.stride * sizeof(float));
      std::memcpy(copy.v, stored.v, layout_.stride * sizeof(float));
    }
    optimizer_.CatchUp(history, layout_.spec.weight_decay, updated_at_[slot], count, copy,
                       layout_.stride);
    return out;
  }
  // Generated first and scaled second, so that direct and sparse tables round the same way.
  if (slot == RowIndex::kNone) {
    Generate(row, out);
    if (factor != 1.0) ScaleInto(out, out, static_cast<float>(factor), layout_.stride);
  } else {
    ScaleInto(out, planes_[0].at(slot), static_cast<float>(factor), layout_.stride);
  }
  return out;
}

void Table::Prefetch(uint64_t row) const {
  if (storage_ == Storage::kSparse) index_.Prefetch(row);
}

void Table::Materialise(const std::vector<uint64_t>& rows) {
  if (storage_ == Storage::kDirect) return;
  for (const uint64_t row : rows) {
    const size_t before = index_.size();
    const uint32_t slot = index_.Insert(row);
    if (index_.size() == before) continue;
    for (int plane = 0; plane < optimizer_.planes(); ++plane) planes_[plane].Reserve(slot + 1);
    updated_at_.push_back(kNeverUpdated);
    changed_at_.push_back(0);
    Generate(row, planes_[0].at(slot));
  }
}

void Table::Update(uint64_t row, const UpdateHistory& history, double lr, float gradient_scale,
                   const float* gradient) {
  const uint32_t slot = SlotOf(row);
  MF_CHECK(slot != RowIndex::kNone);
  const bool decay = layout_.spec.weight_decay;
  const uint64_t count = history.count();
  WillWrite(slot);
  RowState state = StateAt(slot);
  if (updated_at_[slot] == kNeverUpdated) {
    const double factor = optimizer_.UntouchedFactor(history, decay, count);
    if (factor != 1.0) ScaleInto(state.w, state.w, static_cast<float>(factor), layout_.stride);
  } else {
    optimizer_.CatchUp(history, decay, updated_at_[slot], count, state, layout_.stride);
  }
  optimizer_.Step(lr, decay, count + 1, gradient_scale, gradient, state, layout_.stride);
  updated_at_[slot] = static_cast<uint32_t>(count + 1);
}

void Table::EncodeSlot(uint32_t slot, std::byte* out) const {
  const float* const planes[] = {planes_[0].at(slot),
                                 optimizer_.planes() == 3 ? planes_[1].at(slot) : nullptr,
                                 optimizer_.planes() == 3 ? planes_[2].at(slot) : nullptr};
  EncodeRow(updated_at_[slot], planes, optimizer_.planes(), layout_.width(), out);
}

void Table::SaveForCut(uint32_t slot) {
  if (std::byte* place = cut_->PlaceToSave(slot); place != nullptr) EncodeSlot(slot, place);
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
  if (storage_ == Storage::kSparse) {
    std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.row < b.row; });
  }
  cut_ = std::make_unique<TableCut>(std::move(rows), changed_at_.size(),
                                    RowBytes(optimizer_.planes(), layout_.width()));
  return cut_->size();
}

bool Table::NextCutRow(uint64_t* row, std::byte* out) {
  return cut_->Next(row, out, [this](uint32_t slot, std::byte* to) { EncodeSlot(slot, to); });
}

Status Table::Restore(uint64_t row, const std::byte* data, size_t bytes) {
  uint32_t slot = static_cast<uint32_t>(row);
  if (storage_ == Storage::kSparse) {
    slot = index_.Insert(row);
    for (int plane = 0; plane < optimizer_.planes(); ++plane) planes_[plane].Reserve(slot + 1);
    updated_at_.resize(index_.size(), kNeverUpdated);
    changed_at_.resize(index_.size(), 0);
  }
  float* planes[3] = {};
  for (int plane = 0; plane < optimizer_.planes(); ++plane) planes[plane] = planes_[plane].at(slot);
  return DecodeRow(data, bytes, optimizer_.planes(), layout_.width(), &updated_at_[slot], planes);
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
    if (row >= begin) rows.push_back(row);
  }
  if (rows.size() > most) {
    std::nth_element(rows.begin(), rows.begin() + static_cast<ptrdiff_t>(most), rows.end());
    rows.resize(most);
  }
  std::sort(rows.begin(), rows.end());
  return rows;
}

uint64_t Table::updated_count() const {
  if (storage_ == Storage::kSparse) return index_.size();
  return static_cast<uint64_t>(std::count_if(updated_at_.begin(), updated_at_.end(),
                                             [](uint32_t at) { return at != kNeverUpdated; }));
}

uint64_t Table::bytes() const {
  return DirectBytes(layout_, optimizer_, updated_at_.size()) + index_.bytes();
}

uint64_t Table::DirectBytes(const TensorLayout& layout, const Optimizer& optimizer, uint64_t rows) {
  return rows * (static_cast<uint64_t>(optimizer.planes()) * layout.stride * sizeof(float) +
                 2 * sizeof(uint32_t));
}

}  // namespace mf
