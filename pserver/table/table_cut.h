// The rows of one table that a snapshot takes, in the state that they had when it was begun
// (DESIGN 2.7: off the training path). They are handed over one after the other; a row that is
// written before its turn is saved aside first, so that nobody waits for anybody.
//
// One thread hands over; rows may be saved by several, each row by one, but not at the same time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "pserver/table/mapped_memory.h"

namespace mf {

class TableCut {
 public:
  struct Row {
    uint64_t row;
    uint32_t slot;  // kRemoved: it is there no more
  };
  static constexpr uint32_t kRemoved = 0xFFFFFFFF;
  /// `rows` rise; `slots`: how many slots the table has; `row_bytes`: of a row's encoded state.
  TableCut(std::vector<Row> rows, size_t slots, size_t row_bytes)
      : rows_(std::move(rows)), row_bytes_(row_bytes), position_(slots, kNone) {
    for (size_t i = 0; i < rows_.size(); ++i) {
      if (rows_[i].slot != kRemoved) position_[rows_[i].slot] = static_cast<uint32_t>(i);
    }
    saved_.resize(rows_.size());
    // Pages are only used where a row is saved.
    if (!rows_.empty()) aside_ = MappedMemory(rows_.size() * row_bytes);
  }

  size_t size() const { return rows_.size(); }
  /// Where the state of `slot` has to be saved before it is written; nullptr if it need not be.
  std::byte* CopyPlace(uint32_t slot) {
    const uint32_t i = slot < position_.size() ? position_[slot] : kNone;
    if (i == kNone || i < next_ || saved_[i] != 0) return nullptr;
    saved_[i] = 1;
    return aside(i);
  }
  /// The next row's number, and whether it was removed; if not, its state goes to `out`: what was
  /// saved, else what `encode(slot, out)` writes. False at the end.
  template <class Encode>
  bool Next(uint64_t* row, bool* removed, std::byte* out, const Encode& encode) {
    if (next_ == rows_.size()) return false;
    *row = rows_[next_].row;
    *removed = rows_[next_].slot == kRemoved;
    if (*removed) {
      ++next_;
      return true;
    }
    if (saved_[next_] != 0) {
      std::memcpy(out, aside(next_), row_bytes_);
    } else {
      encode(rows_[next_].slot, out);
    }
    ++next_;
    return true;
  }

 private:
  static constexpr uint32_t kNone = 0xFFFFFFFF;
  std::byte* aside(size_t i) const { return aside_.as<std::byte>() + i * row_bytes_; }

  const std::vector<Row> rows_;
  const size_t row_bytes_;
  std::vector<uint32_t> position_;  // by slot: in rows_
  std::vector<uint8_t> saved_;      // by position: the state stands in aside_
  MappedMemory aside_;
  size_t next_ = 0;  // position of the first row that was not handed over
};

}  // namespace mf
