// What an optimizer is to the rest of the server. Each stands in a file of its own beside this one,
// named in MF_OPTIMIZERS (common/run/optimizer_settings.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/run/column_blocks.h"
#include "common/run/optimizer_settings.h"
#include "pserver/table/split_weights.h"
#include "pserver/table/update_history.h"

namespace mf {

inline constexpr int kMomentsMax = 2;

/// A row's state: its weights and the optimizer's own numbers (Adam's m and v, Adagrad's sum of
/// squares), by column or by column block; null where there are none.
struct RowState {
  WeightRow w;
  float* moments[kMomentsMax] = {};
};

/// The columns of a row.
struct RowColumns {
  size_t padded;                        // to 16
  std::span<const ColumnRange> blocks;  // the last one without the padding
};

/// An applied step on a row that is at `step` - 1.
struct RowStep {
  const OptimizerSettings& settings;
  double lr;
  double weight_decay;
  uint64_t step;  // from 1
  float gradient_scale;
  const float* gradient;
};

/// Applied steps from + 1 ... to, in which a row had no gradient. REQUIRES from < to.
struct MissedSteps {
  const OptimizerSettings& settings;
  const TensorHistory& history;
  uint64_t from, to;
};

struct OptimizerRule {
  /// RowState::moments in use, at most kMomentsMax.
  int moments;
  /// Which of them have a float for every column block, not for every weight.
  bool by_block[kMomentsMax] = {};
  void (*step)(const RowStep& step, const RowState& row, const RowColumns& columns);
  /// What dense steps with a gradient of zero would have done.
  void (*catch_up)(const MissedSteps& missed, const RowState& row, const RowColumns& columns);
};

/// catch_up of optimizers that do nothing but the decay when a gradient is zero.
void DecayOnly(const MissedSteps& missed, const RowState& row, const RowColumns& columns);

/// The mean of the squares of (gradient * scale) over a block, for rules that keep it by block.
float MeanSquare(const RowStep& step, const ColumnRange& block);

const OptimizerRule& RuleOf(OptimizerKind kind);

#define MF_RULE(name, text) extern const OptimizerRule k##name##Rule;
MF_OPTIMIZERS(MF_RULE)
#undef MF_RULE

}  // namespace mf
