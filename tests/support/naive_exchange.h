// Memory layers in one place, by plain loops: what the float model is tested with. Not thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "worker/exchange/exchange.h"
#include "worker/model/model.h"

namespace mf {

class NaiveExchange : public Exchange, public RowExchange {
 public:
  /// Tables by tensor id, float [K][rows][columns]; empty for dense tensors.
  /// With `serves_rows` backends may also ask for rows themselves.
  NaiveExchange(const std::vector<TensorSpec>& tensors, DenseTensors tables,
                bool serves_rows = false);

  Status Forward(const TensorSpec& tensor, const Hashes& hashes, float* y) override;
  Status Backward(const TensorSpec& tensor, const Hashes& hashes, const Buffer& dy,
                  float* dweights) override;

  RowExchange* rows() override { return serves_rows_ ? this : nullptr; }
  FinishedStep state() const override { return {1, 0}; }
  Status PullRows(const TensorSpec& tensor, const Frame& rows, float* values) override;
  void SendGradient(const TensorSpec& tensor, const Hashes& hashes, const Buffer& dy) override;
  void PushRows(const TensorSpec& tensor, const Frame& rows, const Frame& hits,
                const Frame& values) override;

  /// Row gradients since the last call of Clear, by tensor id, as the tables.
  const DenseTensors& gradients() const { return gradients_; }
  /// Bucket indices of the last Forward or SendGradient by tensor id, [pairs][tokens].
  const std::vector<std::vector<uint32_t>>& buckets() const { return buckets_; }
  void Clear();

 private:
  const bool serves_rows_;
  DenseTensors tables_;
  DenseTensors gradients_;
  std::vector<std::vector<uint32_t>> buckets_;
};

}  // namespace mf
