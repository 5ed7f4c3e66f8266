// Where a run is, and what is known of its steps. Two types, because a request about step s means
// one of two states: the one in which s is being computed, or the one after it.
#pragma once

#include <compare>
#include <cstdint>
#include <variant>

namespace mf {

struct OpenStep;

/// The state after `step` finished steps of epoch `epoch`. Step 0 is the initial state.
struct FinishedStep {
  uint64_t epoch = 0;
  uint64_t step = 0;
  /// The step that is open in this state.
  OpenStep next() const;
  auto operator<=>(const FinishedStep&) const = default;
};

/// Step `step` (1, 2, ...) of epoch `epoch`, which micro-batches contribute to.
struct OpenStep {
  uint64_t epoch = 0;
  uint64_t step = 0;
  /// The state that the step's micro-batches read.
  FinishedStep before() const { return {epoch, step - 1}; }
  auto operator<=>(const OpenStep&) const = default;
};

inline OpenStep FinishedStep::next() const { return {epoch, step + 1}; }

/// What a read is of. A read of an open step belongs to its training: the rows that it meets are
/// remembered for the step's update. A read of a finished step leaves no trace.
using ReadState = std::variant<FinishedStep, OpenStep>;

/// The open step of the state that is read.
inline OpenStep OpenStepOf(const ReadState& state) {
  if (const auto* finished = std::get_if<FinishedStep>(&state)) return finished->next();
  return std::get<OpenStep>(state);
}
/// The state whose rows are read.
inline FinishedStep FinishedStepOf(const ReadState& state) { return OpenStepOf(state).before(); }
inline bool IsTraining(const ReadState& state) { return std::holds_alternative<OpenStep>(state); }

/// What is known of a finished step, the same for every worker: a line of metrics.jsonl.
struct StepRecord {
  uint64_t step = 0;
  double loss = 0;
  double lr = 0;
  double grad_norm = 0;
  double val_loss = 0;
  bool has_val_loss = false;
  bool dropped = false;
  bool operator==(const StepRecord&) const = default;
};

}  // namespace mf
