// What a step does to the rows of one tensor, now and after missed steps (DESIGN 3,
// `sparse_update`).
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/run/tensor_spec.h"
#include "pserver/table/optimizers/rule.h"
#include "pserver/table/update_history.h"

namespace mf {

class Optimizer {
 public:
  explicit Optimizer(const TensorSpec& tensor)
      : rule_(RuleOf(tensor.optimizer.kind)), settings_(tensor.optimizer) {}

  /// RowState::moments in use.
  int moments() const { return rule_.moments; }
  /// Whether there is one number of a moment for each column block, not for each weight.
  bool by_block(int moment) const { return rule_.by_block[moment]; }
  /// Weight and moments.
  int planes() const { return 1 + moments(); }
  bool exact() const { return settings_.sparse_update == SparseUpdate::kExact; }

  /// Brings a row last updated at count `from` to count `to` (exact only; lazy rows stay as they
  /// are).
  void CatchUp(const TensorHistory& history, uint64_t from, uint64_t to, const RowState& row,
               const RowColumns& columns) const {
    if (from != to && exact()) rule_.catch_up({settings_, history, from, to}, row, columns);
  }
  /// The factor of a row that was never updated.
  double NeverUpdatedFactor(const TensorHistory& history) const {
    return exact() ? history.Decay(0, history.count()) : 1.0;
  }
  /// The next applied step, at rate `lr` of the schedule, on a row that is up to date.
  void Step(const TensorHistory& history, double lr, float gradient_scale, const float* gradient,
            const RowState& row, const RowColumns& columns) const {
    rule_.step({settings_, history.RateAt(lr), history.weight_decay(), history.count() + 1,
                gradient_scale, gradient},
               row, columns);
  }

 private:
  const OptimizerRule& rule_;
  const OptimizerSettings settings_;
};

}  // namespace mf
