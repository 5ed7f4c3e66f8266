#include "pserver/table/gradients.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "common/base/buffer.h"

namespace mf {
namespace {
constexpr size_t kChunkBytes = 64 << 10, kKeyedChunkBytes = 4 << 10;  // as tables' (table.cpp)

size_t SlotsPerChunk(const TensorLayout& layout) {
  const bool keyed = layout.spec.kind == TensorKind::kKeyed;
  return std::max<size_t>(
      1, (keyed ? kKeyedChunkBytes : kChunkBytes) / (layout.stride * sizeof(float)));
}
// A scan of all rows costs about 0.5 ns a row, sorting 30 ns a hit row.
constexpr size_t kScanRatio = 64;
}  // namespace

Gradients::Gradients(const TensorLayout& layout, PageArena& arena)
    : layout_(layout),
      index_(static_cast<uint64_t>(layout.spec.rows)),
      slots_(arena, layout.stride * sizeof(float), SlotsPerChunk(layout)),
      counts_hits_(layout.spec.admit_hits > 1),
      squares_(layout.share.blocks.size()) {}

void Gradients::Insert(const uint64_t* rows, size_t count, const std::byte* hits) {
  sealed_ = false;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t slot = index_.Insert(rows[i]);
    if (index_.size() > fresh_.size()) fresh_.push_back(1);
    if (!counts_hits_) continue;
    if (index_.size() > counts_.size()) counts_.push_back(0);
    const uint32_t more = hits == nullptr ? 1 : LoadUnaligned<uint32_t>(hits, i);
    counts_[slot] += std::min(more, UINT32_MAX - counts_[slot]);
  }
  slots_.Reserve(index_.size());
}

void Gradients::AddPairs(const RowGroups& groups, const void* dy, size_t dy_stride,
                         FirstWrites writes) {
  const size_t count = groups.rows.size();
  sealed_ = false;
  destinations_.resize(count);
  first_.resize(count);
  for (size_t g = 0; g < count; ++g) {
    const uint32_t slot = index_.Insert(groups.rows[g]);
    if (index_.size() > fresh_.size()) fresh_.push_back(1);
    slots_.Reserve(index_.size());
    destinations_[g] = slots_.at<float>(slot);
    first_[g] = std::exchange(fresh_[slot], 0);
  }
  AccumulateRows(groups, 0, count, 0, layout_.width(), dy, dy_stride, destinations_.data(),
                 first_.data(), writes);
}

void Gradients::Add(uint64_t row, const void* values) {
  const uint32_t slot = index_.Find(row);
  float* gradient = slots_.at<float>(slot);
  if (std::exchange(fresh_[slot], 0) != 0) {
    std::memcpy(gradient, values, layout_.width() * sizeof(float));
    std::fill(gradient + layout_.width(), gradient + layout_.stride, 0.0f);
  } else {
    AddInto(gradient, values, layout_.width());
  }
}

void Gradients::Seal(const Admits& admits) {
  if (sealed_) return;
  SortHits();
  refused_.clear();
  if (admits) {
    const auto none = [&](const Hit& hit) { return !admits(hit.row, count(hit)); };
    std::copy_if(hits_.begin(), hits_.end(), std::back_inserter(refused_), none);
    if (!refused_.empty()) std::erase_if(hits_, none);
  }
  std::fill(squares_.begin(), squares_.end(), SquareSum());
  for (const Hit& hit : hits_) AddSquares(squares_.data(), gradient(hit), layout_.share.blocks);
  sealed_ = true;  // last: memory may have ended before
}

void Gradients::SortHits() {
  const std::vector<uint64_t>& rows = index_.rows();
  hits_.clear();
  for (uint32_t slot = 0; slot < rows.size(); ++slot) {
    hits_.push_back({rows[slot], slot});
  }
  const auto before = [](const Hit& a, const Hit& b) { return a.row < b.row; };
  // A micro-batch adds its rows in order: the first one needs no sorting.
  if (std::is_sorted(hits_.begin(), hits_.end(), before)) return;
  const uint64_t all = static_cast<uint64_t>(layout_.spec.rows);
  if (!index_.direct() || rows.size() * kScanRatio < all) {
    std::sort(hits_.begin(), hits_.end(), before);
    return;
  }
  hits_.clear();
  for (uint32_t row = 0; row < all; ++row) {
    if (const uint32_t slot = index_.Find(row); slot != RowIndex::kNone) {
      hits_.push_back({row, slot});
    }
  }
}

void Gradients::Clear() {
  if (index_.size() > 0) index_.Clear();
  fresh_.clear();
  counts_.clear();
  hits_.clear();
  refused_.clear();
  sealed_ = false;
}

}  // namespace mf
