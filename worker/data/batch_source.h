// Where a trainer gets its tokens: a pure function of the arguments, so that any worker can compute
// any micro-batch.
#pragma once

#include <cstdint>

#include "common/base/status.h"
#include "worker/data/token_batch.h"

namespace mf {

class BatchSource {
 public:
  virtual ~BatchSource() = default;
  /// Micro-batch `number` (from 0) of `step` (from 1): train.batch sequences.
  virtual Status TrainBatch(int64_t step, int64_t number, TokenBatch* batch) const = 0;
  /// Sequences of one evaluation; 0 if nothing is held out.
  virtual int64_t eval_sequences() const = 0;
  /// Evaluation sequences [begin, begin + count), the same ones every time.
  virtual Status EvalBatch(int64_t begin, int64_t count, TokenBatch* batch) const = 0;
};

}  // namespace mf
