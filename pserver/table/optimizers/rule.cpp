#include "pserver/table/optimizers/rule.h"

#include <cstdlib>

#include "pserver/table/kernels/rows.h"

namespace mf {

void DecayOnly(const MissedSteps& missed, const RowState& row, const RowColumns& columns) {
  if (missed.history.weight_decay() == 0) return;
  ScaleWeights(row.w, static_cast<float>(missed.history.Decay(missed.from, missed.to)),
               columns.padded);
}

float MeanSquare(const RowStep& step, const ColumnRange& block) {
  SquareSum sum;
  AddSquares(&sum, step.gradient, {&block, 1});
  const double scale = double{step.gradient_scale};
  return static_cast<float>(sum.Total() * scale * scale / static_cast<double>(block.size()));
}

const OptimizerRule& RuleOf(OptimizerKind kind) {
  switch (kind) {
#define MF_CASE(name, text)    \
  case OptimizerKind::k##name: \
    return k##name##Rule;
    MF_OPTIMIZERS(MF_CASE)
#undef MF_CASE
  }
  std::abort();  // no enumerator
}

}  // namespace mf
