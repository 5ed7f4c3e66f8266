#include "pserver/table/optimizer.h"

#include <algorithm>
#include <span>

#include "pserver/table/kernels/optimizer.h"

namespace mf {
namespace {

// Zero-gradient Adam steps taken one by one; after these m is below beta1^256 = 1e-12 of what it
// was (DESIGN 3: the cap errs by 1e-11).
constexpr uint64_t kStepsOneByOne = 256;

AdamSettings SettingsOf(const TrainConfig& config) {
  return {.beta1 = config.beta1, .beta2 = config.beta2, .eps = config.eps};
}

}  // namespace

void Optimizer::CatchUp(const UpdateHistory& history, bool weight_decay, uint64_t from, uint64_t to,
                        const RowState& row, size_t columns) const {
  if (from == to || !exact()) return;
  if (config_.optimizer != OptimizerKind::kAdam) {  // a zero gradient leaves the decay
    if (weight_decay) {
      ScaleWeights(row.w, static_cast<float>(history.Decay(from, to)), columns);
    }
    return;
  }
  const uint64_t steps = std::min(to - from, kStepsOneByOne);
  const double rest = weight_decay ? history.Decay(from + steps, to) : 1.0;
  AdamCatchUp(SettingsOf(config_), std::span(history.rates() + from, steps), decay(weight_decay),
              from, rest, to - from - steps, row.w, row.moments[0], row.moments[1], columns);
}

void Optimizer::Step(double lr, bool weight_decay, uint64_t step, float gradient_scale,
                     const float* gradient, const RowState& row, size_t columns) const {
  switch (config_.optimizer) {
    case OptimizerKind::kSgd:
      SgdStep(lr, decay(weight_decay), gradient_scale, gradient, row.w, columns);
      break;
    case OptimizerKind::kAdagrad:
      AdagradStep(lr, decay(weight_decay), config_.eps, gradient_scale, gradient, row.w,
                  row.moments[0], columns);
      break;
    case OptimizerKind::kAdam:
      AdamStep(SettingsOf(config_), lr, decay(weight_decay), step, gradient_scale, gradient, row.w,
               row.moments[0], row.moments[1], columns);
      break;
  }
}

}  // namespace mf
