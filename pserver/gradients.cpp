#include "pserver/gradients.h"

#include <algorithm>
#include <cstring>

namespace mf {
namespace {
constexpr size_t kChunkFloats = 1 << 16;
}

Gradients::Gradients(const TensorLayout& layout)
    : layout_(layout),
      index_(static_cast<uint64_t>(layout.spec.rows)),
      slots_(layout.stride, std::max<size_t>(16, kChunkFloats / layout.stride)) {}

void Gradients::Insert(const uint64_t* rows, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    index_.Insert(rows[i]);
    if (index_.size() > fresh_.size()) fresh_.push_back(1);
  }
  slots_.Reserve(index_.size());
}

void Gradients::AddPairs(const RowGroups& groups, const void* dy, size_t dy_stride) {
  const size_t count = groups.rows.size();
  destinations_.resize(count);
  first_.resize(count);
  for (size_t g = 0; g < count; ++g) {
    const uint32_t slot = index_.Insert(groups.rows[g]);
    if (index_.size() > fresh_.size()) fresh_.push_back(1);
    slots_.Reserve(index_.size());
    destinations_[g] = slots_.at(slot);
    first_[g] = std::exchange(fresh_[slot], 0);
  }
  AccumulateRows(groups, 0, count, 0, layout_.width(), dy, dy_stride, destinations_.data(),
                 first_.data());
}

void Gradients::Add(uint64_t row, const void* values) {
  const uint32_t slot = index_.Find(row);
  float* gradient = slots_.at(slot);
  if (std::exchange(fresh_[slot], 0) != 0) {
    std::memcpy(gradient, values, layout_.width() * sizeof(float));
    std::fill(gradient + layout_.width(), gradient + layout_.stride, 0.0f);
  } else {
    AddInto(gradient, values, layout_.width());
  }
}

void Gradients::Seal() {
  sorted_ = index_.rows();
  std::sort(sorted_.begin(), sorted_.end());
}

void Gradients::Clear() {
  if (index_.size() > 0) index_.Clear();
  fresh_.clear();
  sorted_.clear();
}

}  // namespace mf
