// Learning rate by step: linear warm-up over ceil(warmup_ratio * N) steps, then cosine to
// min_lr_ratio of the peak at step N (DESIGN 3).
#pragma once

#include <cmath>
#include <cstdint>

#include "common/config/config.h"

namespace mf {

/// The rate of step `step` in 1..N, rounded to float, which is what the optimizers compute with.
inline double LearningRate(const TrainConfig& config, uint64_t step) {
  const double n = static_cast<double>(config.steps);
  const double s = static_cast<double>(step);
  const double warmup = std::ceil(config.warmup_ratio * n);
  double ratio = 1;
  if (s <= warmup) {
    ratio = s / warmup;
  } else if (n > warmup) {
    const double progress = (s - warmup) / (n - warmup);
    ratio = config.min_lr_ratio + (1 - config.min_lr_ratio) * 0.5 * (1 + std::cos(M_PI * progress));
  }
  return static_cast<float>(config.lr * ratio);
}

}  // namespace mf
