// Log-probabilities of documents under a model: what `eval` and `score` share.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "common/config.h"
#include "common/status.h"
#include "common/tensors.h"
#include "common/thread_pool.h"
#include "worker/exchange.h"
#include "worker/model.h"

namespace mf {

class Scorer {
 public:
  /// All outlive the scorer. A pass is as large as a micro-batch: servers take no more, and as the
  /// last bits of a row may depend on how many there are in a pass, all programs tell the same
  /// loss.
  Scorer(const Config& config, const std::vector<TensorSpec>& tensors, const DenseTensors& dense,
         Exchange& exchange, ThreadPool& pool)
      : config_(config),
        dense_(dense),
        exchange_(exchange),
        model_(config, tensors, pool),
        tokens_per_pass_(config.tokens_per_micro_batch()) {}

  /// Scores tokens 1..size-1 exactly once, in windows of model.sequence tokens; a window knows
  /// nothing of the one before it but the token it begins with. `read(begin, count, ids)` copies
  /// tokens; `take` gets the log-probabilities in order. At most `max_windows` windows, 0: all.
  using Read = std::function<Status(int64_t begin, int64_t count, uint32_t* ids)>;
  using Take = std::function<void(std::span<const float> logprobs)>;
  Status Score(int64_t size, const Read& read, const Take& take, int64_t max_windows = 0);

 private:
  const Config& config_;
  const DenseTensors& dense_;
  Exchange& exchange_;
  Model model_;
  Model::Workspace workspace_;
  const int64_t tokens_per_pass_;
};

}  // namespace mf
