// Log-probabilities of documents under a model: what `eval` and `score` share.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "common/base/status.h"
#include "common/run/tensor_spec.h"
#include "worker/compute/compute.h"
#include "worker/config/config.h"
#include "worker/exchange/exchange.h"

namespace mf {

class Scorer {
 public:
  /// References outlive it. kFailed if `compute` has no memory for a pass.
  static Result<std::unique_ptr<Scorer>> Make(const Config& config, Compute& compute,
                                              Compute::Parameters dense, Exchange& exchange);

  struct Windows {
    int64_t most = 0;    // as many tokens as so many whole windows are scored; 0: all
    int64_t stride = 0;  // at which they begin, at most model.sequence; 0: one behind the other
  };
  /// Scores tokens 1..size-1 exactly once, in windows of model.sequence tokens that begin every
  /// `stride` tokens. Each scores what the one before has not: with a stride of model.sequence
  /// all it has, and it knows nothing of the one before but the token it begins with; with a
  /// smaller one each token but the first ones is scored knowing at least model.sequence - stride
  /// others. `read(begin, count, ids)` copies tokens; `take` gets the log-probabilities in order.
  using Read = std::function<Status(int64_t begin, int64_t count, uint32_t* ids)>;
  using Take = std::function<void(std::span<const float> logprobs)>;
  Status Score(int64_t size, const Read& read, const Take& take, const Windows& windows);

 private:
  Scorer(const Config& config, Compute& compute, Compute::Parameters dense, Exchange& exchange)
      : config_(config),
        compute_(compute),
        dense_(std::move(dense)),
        exchange_(exchange),
        tokens_per_pass_(config.tokens_per_micro_batch()) {}

  const Config& config_;
  Compute& compute_;
  const Compute::Parameters dense_;
  Exchange& exchange_;
  std::unique_ptr<Compute::Workspace> workspace_;
  /// A pass is as large as a micro-batch: servers take no more, and as the last bits of a row may
  /// depend on how many there are in a pass, all programs tell the same loss.
  const int64_t tokens_per_pass_;
};

}  // namespace mf
