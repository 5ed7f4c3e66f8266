// The learning rates of all applied steps (dropped steps are not among them), and what they did to
// the rows of each tensor that got no gradient.
#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "common/run/tensor_spec.h"

namespace mf {

/// As the tensors of one rate scale and weight decay see the steps.
class TensorHistory {
 public:
  TensorHistory(double rate_scale, double weight_decay)
      : rate_scale_(rate_scale), weight_decay_(weight_decay) {}

  double weight_decay() const { return weight_decay_; }
  uint64_t count() const { return rates_.size(); }
  /// The tensors' rate at a rate of the schedule: a float, as rows are updated with it.
  double RateAt(double lr) const { return double{static_cast<float>(lr * rate_scale_)}; }
  /// Of applied steps 1, 2, ...
  const float* rates() const { return rates_.data(); }
  /// The product of (1 - rate * weight_decay) over applied steps from+1..to. Kept as sums of
  /// logarithms in double: products would underflow in a long run.
  double Decay(uint64_t from, uint64_t to) const {
    if (from == to) return 1.0;
    const double difference = log_decay_[to] - log_decay_[from];
    if (std::isfinite(difference)) return std::exp(difference);
    double product = 1;  // a step whose rate * weight_decay was 1 or more
    for (uint64_t i = from; i < to; ++i) product *= 1.0 - double{rates_[i]} * weight_decay_;
    return product;
  }
  void Append(double lr) {
    const double rate = RateAt(lr);
    rates_.push_back(static_cast<float>(rate));
    log_decay_.push_back(log_decay_.back() + std::log1p(-rate * weight_decay_));
  }
  void Truncate(uint64_t count) {
    rates_.resize(count);
    log_decay_.resize(count + 1);
  }

 private:
  double rate_scale_, weight_decay_;
  std::vector<float> rates_;
  std::vector<double> log_decay_{0.0};
};

/// Of a run.
class UpdateHistory {
 public:
  explicit UpdateHistory(const std::vector<TensorSpec>& tensors) {
    std::map<std::pair<double, double>, size_t> known;
    for (const TensorSpec& tensor : tensors) {
      const auto [found, is_new] =
          known.try_emplace({tensor.rate_scale, tensor.weight_decay}, histories_.size());
      if (is_new) histories_.emplace_back(tensor.rate_scale, tensor.weight_decay);
      of_tensor_.push_back(found->second);
    }
  }

  /// Adam's count: the number of applied steps.
  uint64_t count() const { return rates_.size(); }
  /// The schedule's rate of applied step `step` (from 1), as snapshots keep it.
  double rate(uint64_t step) const { return rates_[step - 1]; }
  const TensorHistory& Of(uint32_t tensor) const { return histories_[of_tensor_[tensor]]; }

  void Append(double lr) {
    rates_.push_back(lr);
    for (TensorHistory& history : histories_) history.Append(lr);
  }
  void Truncate(uint64_t count) {
    rates_.resize(count);
    for (TensorHistory& history : histories_) history.Truncate(count);
  }

 private:
  std::vector<double> rates_;
  std::vector<TensorHistory> histories_;
  std::vector<size_t> of_tensor_;  // by tensor id, into histories_
};

}  // namespace mf
