// What an optimizer step does to one row, now and after missed steps (DESIGN 3, `sparse_update`).
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "common/config/config.h"
#include "pserver/table/split_weights.h"

namespace mf {

/// The learning rates of all applied steps: `count` is Adam's count, the number of applied steps;
/// dropped steps are not in it.
class UpdateHistory {
 public:
  explicit UpdateHistory(double weight_decay) : weight_decay_(weight_decay) {}
  uint64_t count() const { return lr_.size(); }
  /// The rate of applied step i (from 1).
  double lr(uint64_t step) const { return lr_[step - 1]; }
  /// The same in full, as snapshots keep it: the decay is summed from this.
  double exact_lr(uint64_t step) const { return exact_lr_[step - 1]; }
  /// The product of (1 - lr_i * weight_decay) over applied steps from+1..to. Kept as sums of
  /// logarithms in double: products would underflow in a long run.
  double Decay(uint64_t from, uint64_t to) const {
    if (from == to) return 1.0;
    const double difference = log_decay_[to] - log_decay_[from];
    if (std::isfinite(difference)) return std::exp(difference);
    double product = 1;  // a step whose lr * weight_decay was 1 or more
    for (uint64_t i = from; i < to; ++i) product *= 1.0 - double{lr_[i]} * weight_decay_;
    return product;
  }
  void Append(double lr) {
    lr_.push_back(static_cast<float>(lr));
    exact_lr_.push_back(lr);
    log_decay_.push_back(log_decay_.back() + std::log1p(-lr * weight_decay_));
  }
  void Truncate(uint64_t count) {
    lr_.resize(count);
    exact_lr_.resize(count);
    log_decay_.resize(count + 1);
  }
  const float* rates() const { return lr_.data(); }

 private:
  double weight_decay_;
  std::vector<float> lr_;
  std::vector<double> exact_lr_;
  std::vector<double> log_decay_{0.0};
};

/// A row's state: its weights and the optimizer's own numbers: Adam's m and v, or Adagrad's sum of
/// squares; null where there are none.
struct RowState {
  WeightRow w;
  float* moments[2] = {};
};

class Optimizer {
 public:
  explicit Optimizer(const TrainConfig& config) : config_(config) {}

  /// How many floats are kept beside every weight: RowState::moments in use.
  int moments() const {
    if (config_.optimizer == OptimizerKind::kAdam) return 2;
    return config_.optimizer == OptimizerKind::kAdagrad ? 1 : 0;
  }
  /// Numbers of a row's state by column: weight and moments.
  int planes() const { return 1 + moments(); }
  bool exact() const { return config_.sparse_update == SparseUpdate::kExact; }
  double decay(bool weight_decay) const { return weight_decay ? config_.weight_decay : 0.0; }

  /// Brings a row last updated at count `from` to count `to` (exact only; lazy rows stay as they
  /// are).
  void CatchUp(const UpdateHistory& history, bool weight_decay, uint64_t from, uint64_t to,
               const RowState& row, size_t columns) const;
  /// The factor of a row never updated at `count`.
  double UntouchedFactor(const UpdateHistory& history, bool weight_decay, uint64_t count) const {
    return weight_decay && exact() ? history.Decay(0, count) : 1.0;
  }
  /// Applied step `step` (from 1) on a row that is at step - 1.
  void Step(double lr, bool weight_decay, uint64_t step, float gradient_scale,
            const float* gradient, const RowState& row, size_t columns) const;

 private:
  const TrainConfig config_;
};

}  // namespace mf
