// Typed operations on tensors that are cut over servers: packs what each server needs, puts
// together what they return. Everything is asynchronous; buffers must outlive Wait().
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "common/client.h"
#include "common/config.h"
#include "common/lease_work.h"
#include "common/sharding.h"
#include "common/tensors.h"

namespace mf {

/// Where a request belongs: a training request to the open step `step`, a read to the state after
/// `step` finished steps.
struct StepRef {
  uint64_t epoch = 0;
  uint64_t step = 0;
};

/// A call in flight. Wait() finishes it in the calling thread (sums, copies) and may be called
/// once.
class Pending {
 public:
  using Finish = std::function<Status(std::vector<Reply>&)>;
  Pending(Client::Answer answer, Finish finish)
      : answer_(std::move(answer)), finish_(std::move(finish)) {}
  Status Wait();

 private:
  Client::Answer answer_;
  Finish finish_;
};

enum class Access { kTraining, kReading };

class TableClient {
 public:
  /// All arguments outlive the object.
  TableClient(Client& client, const Config& config, const std::vector<TensorSpec>& tensors);

  size_t servers() const { return client_.servers(); }

  /// y [tokens][columns] (pushdown forward). `indices`, `weights`: pair-major, see messages.h.
  Pending Forward(StepRef at, Access access, const TensorSpec& tensor, size_t tokens,
                  const Frame& indices, const Frame& weights, float* y);
  /// dweights [pairs][tokens] from dy [tokens][columns]; contributes micro-batch `micro_batch`.
  Pending Backward(StepRef at, uint32_t micro_batch, const TensorSpec& tensor, size_t tokens,
                   const Frame& indices, const Frame& weights, const float* dy, float* dweights);
  /// values [rows][columns] of global rows, rising.
  Pending Pull(StepRef at, Access access, const TensorSpec& tensor,
               const std::vector<uint64_t>& rows, float* values);
  /// The same for rows [first, first + count).
  Pending PullRange(StepRef at, const TensorSpec& tensor, uint64_t first, uint64_t count,
                    float* values);
  /// Contributes summed gradients of global rows, rising; `hits` per row (empty for dense tensors).
  Pending Push(StepRef at, uint32_t micro_batch, const TensorSpec& tensor,
               const std::vector<uint64_t>& rows, const std::vector<uint32_t>& hits,
               const float* values);
  /// The same for all rows of the tensor.
  Pending PushWhole(StepRef at, uint32_t micro_batch, const TensorSpec& tensor,
                    const float* values);
  /// Updated rows >= first, rising, at most `most` (one server knows them all).
  Result<std::vector<uint64_t>> ListRows(StepRef at, const TensorSpec& tensor, uint64_t first,
                                         uint64_t most);

  Result<Prepared> Prepare(StepRef at);
  /// True if the step ended applied, on every server.
  Result<bool> Finish(StepRef at, const StepEnd& end);

 private:
  /// Server s's columns of a tensor.
  ColumnRange Columns(const TensorSpec& tensor, size_t server) const {
    return columns_[tensor.id][server];
  }
  std::vector<Request> Requests(Op op, StepRef at, const TensorSpec& tensor) const;
  Pending PullRows(StepRef at, Access access, const TensorSpec& tensor, const Frame& rows,
                   uint64_t first, uint64_t count, float* values);
  Pending PushRows(StepRef at, uint32_t micro_batch, const TensorSpec& tensor, const Frame& rows,
                   const Frame& hits, uint64_t count, const float* values);
  Status Assemble(const TensorSpec& tensor, size_t rows, Wire wire,
                  const std::vector<Reply>& replies, float* out) const;

  Client& client_;
  const Config& config_;
  const std::vector<TensorSpec>& tensors_;
  std::vector<std::vector<ColumnRange>> columns_;  // [tensor][server]
  std::vector<std::vector<size_t>> blocks_;        // [tensor][server]: how many
};

}  // namespace mf
