// Memory layers in one place, by plain loops: what the float model is tested with. Not thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "worker/exchange.h"
#include "worker/model.h"

namespace mf {

class NaiveExchange : public Exchange {
 public:
  /// Tables by tensor id, float [K][rows][columns]; empty for dense tensors.
  NaiveExchange(const std::vector<TensorSpec>& tensors, DenseTensors tables);

  Status Forward(const TensorSpec& tensor, const Hashes& hashes, float* y) override;
  Status Backward(const TensorSpec& tensor, const Hashes& hashes, const Buffer& dy,
                  float* dweights) override;

  /// Row gradients since the last call of Clear, by tensor id, as the tables.
  const DenseTensors& gradients() const { return gradients_; }
  /// Bucket indices of the last Forward by tensor id, [pairs][tokens].
  const std::vector<std::vector<uint32_t>>& buckets() const { return buckets_; }
  void Clear();

 private:
  DenseTensors tables_;
  DenseTensors gradients_;
  std::vector<std::vector<uint32_t>> buckets_;
};

}  // namespace mf
