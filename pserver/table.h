// One hash table (or the one table of a dense tensor) on one server: its rows' state and how
// readers see it. Rows that were never updated are generated; rows that missed steps are caught up
// (DESIGN 2.8 and 3). One thread at a time per table; rows of a direct table may be updated by
// several threads, each row by one.
#pragma once

#include <cstdint>
#include <vector>

#include "common/buffer.h"
#include "pserver/layout.h"
#include "pserver/mapped_memory.h"
#include "pserver/optimizer.h"
#include "pserver/row_index.h"

namespace mf {

/// Rows made up for one request: valid until Reset(). Memory is reused up to a limit, so that a
/// warm server does not allocate.
class ReadScratch {
 public:
  void Reset();
  /// The scratch row made earlier for `row`, or nullptr.
  const float* Find(uint64_t row) const;
  /// Uninitialised memory for `row`.
  float* Add(uint64_t row, size_t floats);
  /// The moments that a catch-up of a scratch row needs while it runs: m and v of `floats` each.
  float* Moments(size_t floats) {
    if (moments_.size() < 2 * floats * sizeof(float)) moments_ = Buffer(2 * floats * sizeof(float));
    return moments_.as<float>();
  }

 private:
  RowIndex index_{UINT64_MAX};
  std::vector<const float*> rows_;
  std::vector<MappedMemory> chunks_;
  size_t chunk_ = 0;  // in use
  size_t used_ = 0;   // floats of it
  Buffer moments_;
};

class Table {
 public:
  static constexpr uint32_t kNeverUpdated = 0xFFFFFFFF;
  enum class Storage { kDirect, kSparse };

  /// Table `k` of the tensor. `layout` and `optimizer` outlive it. A direct table generates all its
  /// rows in Fill().
  Table(const TensorLayout& layout, int64_t k, Storage storage, const Optimizer& optimizer,
        uint64_t seed);
  /// Direct tables: writes the initial values of rows [begin, end). To be called once for every
  /// row.
  void Fill(uint64_t begin, uint64_t end);

  /// The row as it is after history.count() applied steps. `training`: the request belongs to the
  /// open step, whose apply will update this row, so a catch-up is written back; all other readers
  /// leave no trace and see a scratch copy.
  const float* Read(uint64_t row, bool training, const UpdateHistory& history,
                    ReadScratch& scratch);
  void Prefetch(uint64_t row) const;

  /// Sparse tables: gives the rows slots, so that Update() may run. Direct tables: nothing.
  void Materialise(const std::vector<uint64_t>& rows);
  /// Applied step history.count() + 1 with rate `lr` on a row that Materialise() saw.
  void Update(uint64_t row, const UpdateHistory& history, double lr, float gradient_scale,
              const float* gradient);

  /// Updated rows in [begin, ...), rising, at most `most`; sparse tables sort.
  std::vector<uint64_t> UpdatedRows(uint64_t begin, uint64_t most) const;
  uint64_t updated_count() const;
  /// Memory of the rows' state.
  uint64_t bytes() const;

  /// Bytes of the full state of `rows` rows held directly.
  static uint64_t DirectBytes(const TensorLayout& layout, const Optimizer& optimizer,
                              uint64_t rows);

 private:
  uint32_t SlotOf(uint64_t row) const {
    return storage_ == Storage::kDirect ? static_cast<uint32_t>(row) : index_.Find(row);
  }
  RowState StateAt(size_t slot) const;
  /// The initial value of `row`, padded.
  void Generate(uint64_t row, float* out) const;

  const TensorLayout& layout_;
  const int64_t k_;
  const Storage storage_;
  const Optimizer& optimizer_;
  const uint64_t key_;
  RowIndex index_;                    // sparse only
  FloatSlots planes_[3];              // w, m, v by slot
  std::vector<uint32_t> updated_at_;  // by slot: applied steps at the last write
};

}  // namespace mf
