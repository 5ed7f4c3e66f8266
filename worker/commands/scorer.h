// Log-probabilities of documents under a loaded model: what `eval` and `score` share.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "common/status.h"
#include "common/thread_pool.h"
#include "worker/loaded_model.h"
#include "worker/local_exchange.h"
#include "worker/model.h"

namespace mf {

class Scorer {
 public:
  /// `model` and `pool` outlive the scorer.
  Scorer(const LoadedModel& model, ThreadPool& pool);

  /// Scores tokens 1..size-1 exactly once, in windows of model.sequence tokens; a window knows
  /// nothing of the one before it but the token it begins with. `read(begin, count, ids)` copies
  /// tokens; `take` gets the log-probabilities in order. At most `max_windows` windows, 0: all.
  using Read = std::function<Status(int64_t begin, int64_t count, uint32_t* ids)>;
  using Take = std::function<void(std::span<const float> logprobs)>;
  Status Score(int64_t size, const Read& read, const Take& take, int64_t max_windows = 0);

 private:
  const LoadedModel& loaded_;
  LocalExchange exchange_;
  Model model_;
  Model::Workspace workspace_;
};

}  // namespace mf
