#include "pserver/table/optimizers/row_adagrad.h"

#include "pserver/table/optimizers/adagrad.h"

namespace mf {
namespace {

void StepRow(const RowStep& s, const RowState& row, const RowColumns& columns) {
  for (size_t b = 0; b < columns.blocks.size(); ++b) {
    const ColumnRange& block = columns.blocks[b];
    const auto begin = static_cast<size_t>(block.begin);
    float& squares = row.moments[0][b];
    squares += MeanSquare(s, block);
    AdagradMove(s.lr, s.weight_decay, s.settings.eps, s.gradient_scale, s.gradient + begin,
                row.w.From(begin), squares, PaddedColumns(static_cast<size_t>(block.size())));
  }
}

}  // namespace

const OptimizerRule kRowAdagradRule = {
    .moments = 1, .by_block = {true}, .step = StepRow, .catch_up = DecayOnly};

}  // namespace mf
