// Learning rate by step: linear warm-up over ceil(warmup_ratio * N) steps, then cosine to
// min_ratio of the peak at step N, where it stays (DESIGN 3). N is where the schedule ends, and
// steps are counted from the beginning of earlier training, if there was any.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "common/run/run_description.h"

namespace mf {

/// The rate of step `step` of the run, from 1, rounded to float, which is what the optimizers
/// compute with.
inline double LearningRate(const RunRules& rules, uint64_t step) {
  const RateSchedule& schedule = rules.schedule;
  const double before = static_cast<double>(rules.steps_before);
  const double n = schedule.steps > 0 ? static_cast<double>(schedule.steps)
                                      : before + static_cast<double>(rules.steps);
  const double s = std::min(n, before + static_cast<double>(step));
  const double warmup = std::ceil(schedule.warmup_ratio * n);
  double ratio = 1;
  if (s <= warmup) {
    ratio = s / warmup;
  } else if (n > warmup) {
    const double progress = (s - warmup) / (n - warmup);
    ratio = schedule.min_ratio + (1 - schedule.min_ratio) * 0.5 * (1 + std::cos(M_PI * progress));
  }
  return static_cast<float>(schedule.peak * ratio);
}

}  // namespace mf
