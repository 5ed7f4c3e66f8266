#include "pserver/table/optimizers/row_adam.h"

#include <algorithm>
#include <cmath>

#include "pserver/table/optimizers/adam.h"

namespace mf {
namespace {

void StepRow(const RowStep& s, const RowState& row, const RowColumns& columns) {
  const float beta2 = static_cast<float>(s.settings.beta2);
  const float rest = static_cast<float>(1 - s.settings.beta2);
  for (size_t b = 0; b < columns.blocks.size(); ++b) {
    const ColumnRange& block = columns.blocks[b];
    const auto begin = static_cast<size_t>(block.begin);
    float& v = row.moments[1][b];
    v = std::fma(rest, MeanSquare(s, block), beta2 * v);
    AdamMove(s.settings, s.lr, s.weight_decay, s.step, s.gradient_scale, s.gradient + begin,
             row.w.From(begin), row.moments[0] + begin, v,
             PaddedColumns(static_cast<size_t>(block.size())));
  }
}

/// As Adam's, with v beside every column for as long.
void CatchUpRow(const MissedSteps& missed, const RowState& row, const RowColumns& columns) {
  constexpr size_t kAtOnce = 256;
  alignas(64) float v[kAtOnce];
  for (size_t b = 0; b < columns.blocks.size(); ++b) {
    const ColumnRange& block = columns.blocks[b];
    const size_t end =
        static_cast<size_t>(block.begin) + PaddedColumns(static_cast<size_t>(block.size()));
    const float before = row.moments[1][b];
    for (auto begin = static_cast<size_t>(block.begin); begin < end; begin += kAtOnce) {
      const size_t count = std::min(kAtOnce, end - begin);
      std::fill_n(v, count, before);
      AdamCatchUp(missed, row.w.From(begin), row.moments[0] + begin, v, count);
    }
    row.moments[1][b] = v[0];
  }
}

}  // namespace

const OptimizerRule kRowAdamRule = {
    .moments = 2, .by_block = {false, true}, .step = StepRow, .catch_up = CatchUpRow};

}  // namespace mf
