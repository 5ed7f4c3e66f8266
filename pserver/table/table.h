// One hash table (or the one table of a dense tensor) on one server: its rows' state and how
// readers see it. Rows that were never updated are generated; rows that missed steps are caught up
// (DESIGN 2.8 and 3). One thread at a time per table; rows of a direct table may be updated by
// several threads, each row by one.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "common/base/buffer.h"
#include "common/base/status.h"
#include "pserver/table/gradients.h"
#include "pserver/table/layout.h"
#include "pserver/table/mapped_memory.h"
#include "pserver/table/optimizer.h"
#include "pserver/table/removed_rows.h"
#include "pserver/table/row_format.h"
#include "pserver/table/row_index.h"
#include "pserver/table/table_cut.h"

namespace mf {

/// Counts the snapshots that were begun, so that a row can say since when it was not saved.
struct ChangeClock {
  uint32_t now = 1;
};

/// Rows made up for one request: valid until Reset(). Memory is reused up to a limit, so that a
/// warm server does not allocate.
class ReadScratch {
 public:
  void Reset();
  /// The scratch row made earlier for `row`, or nullptr.
  const void* Find(uint64_t row) const;
  /// Uninitialised memory for `row`, aligned to 64 bytes.
  void* Add(uint64_t row, size_t bytes);
  /// What is needed while a row is made: `floats` floats.
  float* Temporary(size_t floats) {
    if (temporary_.size() < floats * sizeof(float)) temporary_ = Buffer(floats * sizeof(float));
    return temporary_.as<float>();
  }

 private:
  RowIndex index_{UINT64_MAX};
  std::vector<const void*> rows_;
  std::vector<MappedMemory> chunks_;
  size_t chunk_ = 0;  // in use
  size_t used_ = 0;   // bytes of it
  Buffer temporary_;
};

class Table {
 public:
  static constexpr uint32_t kNeverUpdated = 0xFFFFFFFF;
  enum class Storage { kDirect, kSparse };

  /// Table `k` of the tensor. `layout`, `clock` and the arenas outlive it; moments lie in one of
  /// their own if that is given. A direct table generates all its rows in Fill().
  Table(const TensorLayout& layout, int64_t k, Storage storage, const ChangeClock& clock,
        uint64_t seed, PageArena& arena, PageArena* moments_arena = nullptr);
  /// Direct tables: writes the initial values of rows [begin, end). To be called once for every
  /// row.
  void Fill(uint64_t begin, uint64_t end);

  /// The row as it is after history.count() applied steps. `training`: the request belongs to the
  /// open step, whose apply will update this row, so a catch-up is written back; all other readers
  /// leave no trace and see a scratch copy. Its numbers are of layout.spec.row_type.
  const void* Read(uint64_t row, bool training, const TensorHistory& history,
                   ReadScratch& scratch) {
    return ReadAt(row, training, history, NeverUpdated(history), scratch);
  }
  /// Hints that rows will be read soon: first PrefetchIndex() of some of them, then PrefetchRow().
  void PrefetchIndex(uint64_t row) const {
    if (storage_ == Storage::kSparse) index_.Prefetch(row);
  }
  void PrefetchRow(uint64_t row) const;
  /// The same for all `rows`: out[i] is rows[i].
  void ReadMany(std::span<const uint32_t> rows, bool training, const TensorHistory& history,
                ReadScratch& scratch, const void** out);

  /// Sparse tables: whether the row has been updated.
  bool Has(uint64_t row) const { return index_.Find(row) != RowIndex::kNone; }
  /// Sparse tables: gives the rows slots, so that Update() may run. Direct tables: nothing. Calls
  /// `pause` now and then: the first update of a large table makes all its rows.
  void Materialise(const std::vector<Gradients::Hit>& hits, const std::function<void()>& pause);
  /// Applied step history.count() + 1 with rate `lr` on hits [begin, end) of a sealed gradient.
  /// REQUIRES Materialise() of the same hits.
  void Update(const Gradients& gradients, size_t begin, size_t end, const TensorHistory& history,
              double lr, float gradient_scale);

  /// For a table that is only read from now on: every updated row as it is after history.count()
  /// steps. Its moments are not looked at any more, and their arena may go.
  void Settle(const TensorHistory& history);

  /// Sparse tables: drops the rows that were updated last in applied step `last` or before; how
  /// many there were. Calls `pause` now and then.
  uint64_t Expire(uint32_t last, const std::function<void()>& pause);

  /// Updated rows in [begin, ...), rising, at most `most`; sparse tables sort.
  std::vector<uint64_t> UpdatedRows(uint64_t begin, uint64_t most) const;
  uint64_t updated_count() const { return updated_.load(std::memory_order_relaxed); }
  /// Memory of the rows' state.
  uint64_t bytes() const;

  /// Fixes the state of all rows changed after clock time `since` (-1: of all) as it is now, to be
  /// handed over by NextCutRow() while training goes on: a row that is written before its turn is
  /// saved first. Rows that were dropped since are among them. Returns how many there are.
  /// REQUIRES: no cut.
  size_t BeginCut(int64_t since);
  /// The next row of the cut, rising, in the form of pserver/table/row_format.h, or as removed;
  /// false at the end.
  bool NextCutRow(uint64_t* row, bool* removed, std::byte* out);
  void EndCut() { cut_.reset(); }
  /// The other way: `row`'s state from a snapshot. kFailed if it cannot be one of this table.
  Status Restore(uint64_t row, const std::byte* data, size_t bytes);

  /// How many floats of a moment a row has.
  static size_t MomentFloats(const TensorLayout& layout, int moment);
  /// Bytes of the full state of `rows` rows held directly.
  static uint64_t DirectBytes(const TensorLayout& layout, uint64_t rows);

 private:
  uint32_t SlotOf(uint64_t row) const {
    return storage_ == Storage::kDirect ? static_cast<uint32_t>(row) : index_.Find(row);
  }
  bool split() const { return layout_.spec.row_type == RowType::kBf16; }
  WeightRow WeightsAt(size_t slot) const;
  RowState StateAt(size_t slot) const;
  /// What readers see of a slot as it stands.
  const void* VisibleAt(size_t slot) const;
  void ReserveSlots(size_t count);
  RowColumns Columns() const { return {layout_.stride, layout_.share.blocks}; }
  /// The factor of rows that were never updated.
  double NeverUpdated(const TensorHistory& history) const {
    return optimizer_.NeverUpdatedFactor(history);
  }
  const void* ReadAt(uint64_t row, bool training, const TensorHistory& history, double untouched,
                     ReadScratch& scratch);
  const void* MakeNeverUpdated(uint64_t row, uint32_t slot, double factor,
                               ReadScratch& scratch) const;
  const void* MakeCaughtUp(uint64_t row, uint32_t slot, const TensorHistory& history,
                           ReadScratch& scratch) const;
  /// Before every write of a slot's state. Rows of a direct table may be written by several
  /// threads, each row by one.
  void BeforeWrite(uint32_t slot) {
    if (cut_ != nullptr) CopyForSnapshot(slot);
    changed_at_[slot] = clock_.now;
  }
  void CopyForSnapshot(uint32_t slot);
  /// Where a slot's planes are, in the order of a snapshot.
  std::array<float*, 1 + kMomentsMax> PlanesAt(uint32_t slot) const;
  void EncodeSlot(uint32_t slot, std::byte* out) const;
  /// The initial value of `row`, padded.
  void Generate(uint64_t row, float* out) const;
  void GenerateInto(uint64_t row, uint32_t slot, std::vector<float>& temporary);

  const TensorLayout& layout_;
  const int64_t k_;
  const Storage storage_;
  const Optimizer optimizer_;
  const RowFormat format_;  // of its rows in snapshots
  const uint64_t key_;
  RowIndex index_;  // sparse only
  // By slot. What readers see is dense in memory; what they do not lies apart.
  Slots weights_;      // f32, or bf16
  Slots weights_low_;  // bf16: the rest of the f32 (WeightRow)
  Slots moments_[kMomentsMax];
  const ChangeClock& clock_;
  std::vector<uint32_t> updated_at_;  // by slot: applied steps at the last write
  std::vector<uint32_t> changed_at_;  // by slot: clock time of the last write; 0: as loaded
  std::atomic<uint64_t> updated_ = 0;
  std::vector<uint32_t> step_slots_;  // sparse: of the hits that Materialise() saw
  std::unique_ptr<TableCut> cut_;
  RemovedRows removed_;
};

}  // namespace mf
