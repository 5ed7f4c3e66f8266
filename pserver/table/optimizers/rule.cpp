#include "pserver/table/optimizers/rule.h"

#include <cstdlib>

#include "pserver/table/kernels/rows.h"

namespace mf {

void DecayOnly(const MissedSteps& missed, const RowState& row, size_t columns) {
  if (missed.history.weight_decay() == 0) return;
  ScaleWeights(row.w, static_cast<float>(missed.history.Decay(missed.from, missed.to)), columns);
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
