// Copies of memory tables on the GPU (`exchange.placement`). The servers stay the owners: a row is
// pulled when a micro-batch first meets it in a state of the run, so at most once a step, and only
// rows that are used travel. All rows change in every step (momentum and weight decay go on without
// hits), so what the last state had is never good for the next.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "common/base/mutex.h"
#include "common/run/tensor_spec.h"
#include "worker/compute/cuda/kernels/rows.h"
#include "worker/compute/cuda/lane.h"
#include "worker/compute/cuda/memory.h"
#include "worker/exchange/exchange.h"

namespace mf::cuda {

class DeviceTables {
 public:
  /// Memory for the copies of all of `tensors` that are on the device. Throws CudaError if it is
  /// not there.
  explicit DeviceTables(const std::vector<TensorSpec>& tensors);

  size_t bytes() const { return bytes_; }

  /// Fetches the rows that `pairs` meet and that the copy lacks in rows.state(); the lane's stream
  /// then has them all at *table [tables * rows][columns]. Waits for the lane's stream. One lane at
  /// a time refreshes a table, the others wait and find its rows there.
  Status Refresh(const TensorSpec& tensor, const Pairs& pairs, RowExchange& rows, Lane& lane,
                 const float** table);

  /// Nothing that was copied counts any more.
  void Forget();

  /// The copy as it is, for the backward pass of a micro-batch that has refreshed it. Not locked:
  /// only a lane of another state can write to these rows meanwhile, and then this lane's step has
  /// ended and servers and coordinator refuse what it computes.
  const float* rows(const TensorSpec& tensor) const;

 private:
  struct Table {
    DeviceMemory rows;    // float [rows][columns]
    DeviceMemory stamps;  // u64 [rows]: the generation that the row was pulled in
    Mutex mutex;
    FinishedStep state MF_GUARDED_BY(mutex);
    uint64_t generation MF_GUARDED_BY(mutex) = 1;  // of `state`; another one after a failure
  };
  Status PullStale(const TensorSpec& tensor, const Pairs& pairs, RowExchange& rows, Lane& lane,
                   Table& table) MF_REQUIRES(table.mutex);

  std::vector<std::unique_ptr<Table>> tables_;  // by tensor id
  size_t bytes_ = 0;
};

}  // namespace mf::cuda
