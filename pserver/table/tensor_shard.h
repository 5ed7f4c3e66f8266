// A tensor's share on one server: its tables, the open step's gradients, and the kernel jobs of
// each operation. Knows no messages and no sockets; sizes and ranges have been checked by the
// caller.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/base/buffer.h"
#include "common/base/thread_pool.h"
#include "common/kernels/pairs.h"
#include "pserver/table/bucket_counts.h"
#include "pserver/table/contribution_order.h"
#include "pserver/table/gradients.h"
#include "pserver/table/table.h"
#include "pserver/table/waiting_keys.h"

namespace mf {

/// One micro-batch's gradient for one tensor: pairs with dy (pushdown), or summed rows (push).
struct Contribution {
  uint64_t step = 0;
  bool finite = true;
  // pushdown
  size_t tokens = 0;
  Buffer buckets;  // u32 [pairs][tokens]
  Frame weights;   // f32 [pairs][tokens]
  Frame dy;        // f32 [tokens][width]
  // push
  bool is_push = false;
  Buffer rows;         // u64 global row ids, rising
  bool whole = false;  // instead of `rows`: all of them
  Frame hits;          // u32 per row, or empty
  Frame values;        // f32 [rows][width]

  std::span<const uint64_t> row_ids() const {
    return {rows.as<const uint64_t>(), rows.size() / sizeof(uint64_t)};
  }
};

/// Memory of one request at a time, shared by all tensors of a server and kept warm.
struct RequestScratch {
  std::vector<const void*> row_pointers;  // [pairs][tokens]
  std::vector<ReadScratch> made_rows;     // per table, because a table is resolved by one thread
  std::vector<RowGroups> groups;          // per pool thread
  std::vector<uint64_t> all_rows;         // 0, 1, ...: of a push of a whole tensor
  std::vector<std::vector<uint64_t>> local_rows;  // per pool thread: of one table
  std::vector<size_t> begins;                     // of tables in a request's rows
  struct Hits {
    size_t table, begin, end;
  };
  std::vector<Hits> hits;  // of a step's gradient, cut into jobs
};

class TensorShard {
 public:
  struct Options {
    uint64_t seed = 1;
    Table::Storage storage = Table::Storage::kDirect;
    bool count_hits = false;             // see Buckets()
    uint64_t micro_batches = 0;          // of a step: after so many Prepare() has little left to do
    PageArena* moments_arena = nullptr;  // see Table; outlives it
  };
  /// References outlive it.
  TensorShard(TensorLayout layout, const Options& options, const ChangeClock& clock,
              ThreadPool& pool, PageArena& arena, RequestScratch& scratch);

  const TensorLayout& layout() const { return layout_; }
  size_t pairs() const { return tables_.size() * probes(); }

  /// y [tokens][width] of the pairs at `buckets` [pairs][tokens]; `training` as in Table::Read.
  void Forward(std::span<const uint32_t> buckets, const void* weights, size_t tokens, bool training,
               const UpdateHistory& history, float* y);
  /// dots [pairs][tokens], the exact fixed-point parts of dL/dweight.
  void Dots(std::span<const uint32_t> buckets, const void* weights, size_t tokens, const void* dy,
            const int8_t* exponents, const UpdateHistory& history, int64_t* dots);

  /// Adds what is due, in micro-batch order. A contribution that is not finite changes no row.
  void Contribute(uint64_t micro_batch, Contribution contribution);
  bool Accepts(uint64_t micro_batch) const { return order_.Accepts(micro_batch); }
  uint64_t watermark() const { return order_.watermark(); }
  bool finite() const { return finite_; }

  /// values [rows][width] of global rows, after history.count() steps.
  void Pull(std::span<const uint64_t> rows, bool training, const UpdateHistory& history,
            float* values);
  /// See Table::Settle.
  void Settle(const UpdateHistory& history);
  /// Updated global rows >= first, rising, at most `most`.
  std::vector<uint64_t> UpdatedRows(uint64_t first, uint64_t most) const;
  uint64_t updated_count() const;
  /// Memory of the rows' state and of the open step's gradients.
  uint64_t bytes() const;
  /// Per table, the hits of contributions added so far, as they are in step `step`; empty unless
  /// they are counted (Options::count_hits, memory tensors).
  std::vector<TableBuckets> Buckets(uint64_t step) const;
  bool counts_hits() const { return !hits_.empty(); }
  TableBuckets BucketsOf(size_t k, uint64_t step) const { return hits_[k].Summarise(step); }

  /// Squares of the step's gradient, one double per (table, block). Appends tables * blocks doubles
  /// to `squares`. They were summed as soon as a table's last micro-batch was in.
  void Prepare(std::vector<double>* squares);
  /// Applies the step's gradient times `scale` (REQUIRES Prepare), then forgets it.
  void Apply(const UpdateHistory& history, double lr, float scale);
  void ForgetStep();

  /// As Table's, over all tables, with global rows.
  size_t BeginCut(int64_t since);
  bool NextCutRow(uint64_t* row, bool* removed, std::byte* out);
  /// The same of keys that wait, whose state is kWaitingBytes long: u32 hits, u32 applied step.
  bool NextCutWaiting(uint64_t* row, bool* removed, std::byte* out);
  static constexpr size_t kWaitingBytes = 8;
  void EndCut();
  size_t row_bytes() const { return row_bytes_; }
  /// kFailed if this is no row of the tensor.
  Status Restore(uint64_t row, const std::byte* data, size_t bytes);
  /// Of a key that waits. kFailed if it cannot be one; else the step in which it was hit last.
  Result<uint32_t> RestoreWaiting(uint64_t row, const std::byte* data, size_t bytes);

  // Of keyed tensors, for metrics.
  uint64_t waiting_count() const;
  uint64_t admitted() const { return admitted_; }  // keys, since the tables were made
  uint64_t expired() const { return expired_; }    // rows

 private:
  size_t probes() const { return static_cast<size_t>(layout_.spec.probes); }
  // A global row of its own is row RowInTable() of tables_[TableOf()]; the first one of
  // tables_[k] is FirstRowOf(k).
  size_t TableOf(uint64_t row) const {
    return row / static_cast<uint64_t>(layout_.spec.rows) -
           static_cast<size_t>(layout_.share.tables.begin);
  }
  uint64_t RowInTable(uint64_t row) const { return row % static_cast<uint64_t>(layout_.spec.rows); }
  uint64_t FirstRowOf(size_t k) const {
    return (static_cast<uint64_t>(layout_.share.tables.begin) + k) *
           static_cast<uint64_t>(layout_.spec.rows);
  }
  void Resolve(std::span<const uint32_t> buckets, size_t tokens, bool training,
               const UpdateHistory& history);
  /// `last`: of the step.
  void Add(const Contribution& contribution, bool last);
  void AddPairs(const Contribution& contribution, bool last);
  void AddRows(const Contribution& contribution);
  void Seal();
  void SealTable(size_t k);
  bool counts_keys() const { return !waiting_.empty(); }
  /// Before the rows of a step get their slots: who had to wait for one does no more, and who was
  /// refused has waited once more.
  void CountKeys(uint64_t step);
  /// At the end of applied step `step`, if it is time to.
  void Expire(uint64_t step);
  void CountRowHits(const Contribution& contribution);

  const TensorLayout layout_;
  const Options options_;
  const ChangeClock& clock_;
  ThreadPool& pool_;
  std::vector<std::unique_ptr<Table>> tables_;
  std::vector<std::unique_ptr<Gradients>> gradients_;
  const size_t row_bytes_;                        // of a row's state in a snapshot
  size_t cut_table_ = 0;                          // whose rows are being handed over
  std::vector<WaitingKeys> waiting_;              // by table; empty: every key is admitted at once
  std::vector<WaitingKeys::Change> cut_waiting_;  // to be handed over, with global rows
  size_t cut_waiting_next_ = 0;
  uint64_t admitted_ = 0, expired_ = 0;
  std::vector<BucketCounts> hits_;  // by table; empty: not counted
  ContributionOrder<Contribution> order_;
  bool finite_ = true;
  RequestScratch& scratch_;
};

}  // namespace mf
