// Typed operations on tensors that are cut over servers: packs what each server needs, puts
// together what they return. Everything is asynchronous; buffers must outlive Wait().
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/buffer.h"
#include "common/client/answer.h"
#include "common/net/step.h"
#include "common/run/run_description.h"
#include "common/run/tensor_share.h"
#include "common/run/tensor_spec.h"

namespace mf {

class TableClient;
struct Prepared;
struct StepEnd;

/// Where the replies to a call go: rows of floats, or the sum of dots that go with `exponents`.
struct Destination {
  const TensorSpec* tensor = nullptr;
  size_t rows = 0;     // or tokens
  Frame row_ids = {};  // of them, where each server has the columns of some rows only
  size_t stride = 0;   // floats from row to row of `out`
  size_t pairs = 0;    // dots: per token
  Wire wire = Wire::kF32;
  Frame exponents = {};  // i8 per token; empty: rows
  float* out = nullptr;
};

/// A call in flight. Wait() finishes it in the calling thread (sums, copies) and may be called
/// once.
class Pending {
 public:
  explicit Pending(Answer answer) : answer_(std::move(answer)) {}
  Pending(Answer answer, const TableClient& tables, Destination destination)
      : answer_(std::move(answer)), tables_(&tables), destination_(std::move(destination)) {}
  Status Wait();

 private:
  Answer answer_;
  const TableClient* tables_ = nullptr;  // none: nothing is returned
  Destination destination_;
};

class TableClient {
 public:
  /// All arguments outlive the object.
  TableClient(Client& client, const RunDescription& run);

  size_t servers() const;
  const RunDescription& run() const { return run_; }
  /// What each server has of each tensor.
  const RunShares& shares() const { return shares_; }

  /// y [tokens][columns] (pushdown forward). `indices`, `weights`: pair-major, see messages.h.
  Pending Forward(const ReadState& at, const TensorSpec& tensor, size_t tokens,
                  const Frame& indices, const Frame& weights, float* y);
  /// dweights [pairs][tokens] from dy f32 [tokens][columns], which is sent as it stands where one
  /// server has all columns: nobody writes to it any more; contributes micro-batch `micro_batch`.
  /// With dweights = nullptr only contributes.
  Pending Backward(OpenStep at, uint32_t micro_batch, const TensorSpec& tensor, size_t tokens,
                   const Frame& indices, const Frame& weights, const Frame& dy, float* dweights);
  /// values [rows][stride] of global rows (u64), rising; numbers behind the columns stay as they
  /// are.
  Pending Pull(const ReadState& at, const TensorSpec& tensor, const Frame& rows, float* values,
               size_t stride);
  /// The same with stride = columns.
  Pending Pull(const ReadState& at, const TensorSpec& tensor, const std::vector<uint64_t>& rows,
               float* values);
  /// The same for rows [first, first + count) of a tensor that is not keyed.
  Pending PullRange(FinishedStep at, const TensorSpec& tensor, uint64_t first, uint64_t count,
                    float* values);
  /// Contributes summed gradients f32 [rows][columns] of global rows (u64), rising, of which there
  /// may be none; `hits` (u32) per row (empty for dense tensors). The frames are sent as they stand
  /// where one server has all columns.
  Pending Push(OpenStep at, uint32_t micro_batch, const TensorSpec& tensor, const Frame& rows,
               const Frame& hits, const Frame& values);
  /// The same with copies of the arguments.
  Pending Push(OpenStep at, uint32_t micro_batch, const TensorSpec& tensor,
               const std::vector<uint64_t>& rows, const std::vector<uint32_t>& hits,
               const float* values);
  /// The same for all rows of a tensor that is not keyed; `values` are copied.
  Pending PushWhole(OpenStep at, uint32_t micro_batch, const TensorSpec& tensor,
                    const float* values);
  /// Updated rows >= first, rising, at most `most`.
  Result<std::vector<uint64_t>> ListRows(FinishedStep at, const TensorSpec& tensor, uint64_t first,
                                         uint64_t most);

  Result<Prepared> Prepare(OpenStep at);
  /// True if the step ended applied, on every server.
  Result<bool> Finish(OpenStep at, const StepEnd& end);

 private:
  friend class Pending;
  /// Server s's columns of a tensor.
  ColumnRange Columns(const TensorSpec& tensor, size_t server) const {
    return shares_[tensor.id][server].columns;
  }
  /// Of `count` rows, those that a server has; without `row_ids` all.
  RowSlice Rows(const TensorSpec& tensor, size_t server, const Frame& row_ids, size_t count) const {
    if (row_ids.size() == 0) return {0, count};
    return RowsOfShare(tensor, shares_[tensor.id][server], row_ids.data(), count);
  }
  Pending PullRows(const ReadState& at, const TensorSpec& tensor, const Frame& rows, uint64_t first,
                   uint64_t count, float* values, size_t stride);
  Pending PushRows(OpenStep at, uint32_t micro_batch, const TensorSpec& tensor, const Frame& rows,
                   const Frame& hits, uint64_t count, const Frame& values);
  Status PutTogether(const Destination& destination, const std::vector<Reply>& replies) const;

  Client& client_;
  const RunDescription& run_;
  const RunShares shares_;
};

}  // namespace mf
