// Memory layers over the tables of a loaded model: forward only, no servers.
#pragma once

#include "common/base/thread_pool.h"
#include "worker/exchange/exchange.h"
#include "worker/export/loaded_model.h"

namespace mf {

class LocalExchange : public Exchange {
 public:
  /// `model` and `pool` outlive the exchange.
  LocalExchange(const LoadedModel& model, ThreadPool& pool) : model_(model), pool_(pool) {}

  /// Parallel over ranges of tokens; every output has one writer, so the threads do not matter.
  Status Forward(const TensorSpec& tensor, const Hashes& hashes, float* y) override;
  /// kFailed: a file cannot be trained.
  Status Backward(const TensorSpec& tensor, const Hashes& hashes, const Buffer& dy,
                  float* dweights) override;

 private:
  const LoadedModel& model_;
  ThreadPool& pool_;
};

}  // namespace mf
