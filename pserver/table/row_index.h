// From a row number to a small dense slot number: a plain array where the rows are few, an
// open-addressing hash table where they are many (DESIGN 2.8). Slots are given in order of
// insertion, those that were freed first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace mf {

class RowIndex {
 public:
  static constexpr uint32_t kNone = 0xFFFFFFFF;
  static constexpr uint64_t kNoRow = UINT64_MAX;

  RowIndex() = default;
  /// `rows`: how many different row numbers there can be.
  explicit RowIndex(uint64_t rows);

  /// The slot of `row`, or kNone.
  uint32_t Find(uint64_t row) const;
  /// The slot of `row`; a new one (one that Erase() freed, or == the size before) if it had none.
  /// Calls `pause` now and then
  /// while the index of millions of rows is made anew; it must not use the index.
  uint32_t Insert(uint64_t row, const std::function<void()>& pause = {});
  /// Frees the slot of `row` and returns it; kNone if it had none. REQUIRES: rows are not kNoRow.
  uint32_t Erase(uint64_t row);
  /// Hints that `row` will be looked up soon.
  void Prefetch(uint64_t row) const;
  /// Forgets all rows; keeps the memory.
  void Clear();

  /// The rows in slot order; kNoRow: a free slot.
  const std::vector<uint64_t>& rows() const { return rows_; }
  /// Slots so far, free ones among them.
  size_t size() const { return rows_.size(); }
  /// Whether Find() is an access to an array.
  bool direct() const { return direct_; }
  uint64_t bytes() const {
    return slots_.size() * sizeof(uint32_t) + rows_.capacity() * sizeof(uint64_t);
  }

 private:
  size_t Bucket(uint64_t row) const;
  void Grow(const std::function<void()>& pause);
  uint32_t NewSlot(uint64_t row);

  bool direct_ = true;
  std::vector<uint32_t> slots_;  // direct: by row; else a power-of-two table of slots, kNone = free
  std::vector<uint64_t> rows_;
  std::vector<uint32_t> free_;
};

}  // namespace mf
