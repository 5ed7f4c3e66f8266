// Which optimizer updates a tensor, and its numbers. A new optimizer is a line of MF_OPTIMIZERS and
// the file of its name in pserver/table/optimizers/.
#pragma once

#include <array>
#include <cstdint>

namespace mf {

/// X(name of the enumerator, name in options and descriptions).
#define MF_OPTIMIZERS(X) \
  X(Sgd, "sgd")          \
  X(Adam, "adam")        \
  X(Adagrad, "adagrad")  \
  X(RowAdam, "row_adam") \
  X(RowAdagrad, "row_adagrad")

#define MF_ENUMERATOR(name, text) k##name,
#define MF_NAME(name, text) text,
enum class OptimizerKind : uint8_t { MF_OPTIMIZERS(MF_ENUMERATOR) };
/// In the order of the enumerators, as all k...Names are.
inline constexpr std::array kOptimizerNames = {MF_OPTIMIZERS(MF_NAME)};
#undef MF_ENUMERATOR
#undef MF_NAME

/// What becomes of the rows that a step did not hit: what the dense optimizer would do, or nothing.
enum class SparseUpdate : uint8_t { kExact, kLazy };
inline constexpr std::array kSparseUpdateNames = {"exact", "lazy"};

struct OptimizerSettings {
  OptimizerKind kind = OptimizerKind::kAdam;
  double beta1 = 0.9;  // decay of Adam's two averages
  double beta2 = 0.95;
  double eps = 1e-8;  // added to Adam's and Adagrad's denominator
  SparseUpdate sparse_update = SparseUpdate::kExact;
  bool operator==(const OptimizerSettings&) const = default;
};

}  // namespace mf
