// Which tensors a model has, in their canonical order, and how each one is stored on the servers.
// A pure function of the configuration, so that workers and servers agree without talking.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/config/config.h"

namespace mf {

enum class TensorKind { kMemory, kDense };
enum class Init { kNormal, kConstant };

/// A tensor on the servers: K tables of `rows` rows of `columns` numbers. Dense tensors (embedding,
/// head, gains, biases, matrices) have K = 1. Row r of table k has the global row id k * rows + r.
struct TensorSpec {
  uint32_t id = 0;   // position in TensorsOf()
  std::string name;  // as in the export, DESIGN 8
  TensorKind kind = TensorKind::kDense;
  int64_t tables = 1;   // K
  int64_t rows = 1;     // per table
  int64_t columns = 1;  // h
  int index_bits = 0;   // memory: log2(rows)
  Init init = Init::kConstant;
  double init_value = 0;  // standard deviation, or the constant
  bool weight_decay = false;
  RowType row_type = RowType::kF32;         // as readers see the rows
  ExchangeMode mode = ExchangeMode::kPull;  // resolved: kPushdown or kPull, fixed for a run
  bool on_device = false;                   // GPU workers keep a copy of the rows (DESIGN 2.4)
  std::vector<int64_t> shape;               // in the export; its product is tables * rows * columns

  uint64_t total_rows() const {
    return static_cast<uint64_t>(tables) * static_cast<uint64_t>(rows);
  }
  /// A memory layer's name for people: "blocks.0.qkv" of "blocks.0.qkv.tables".
  std::string layer() const { return name.substr(0, name.rfind('.')); }
  /// Bytes of one bucket index on the wire: 1, 2 or 4.
  int index_bytes() const { return index_bits <= 8 ? 1 : index_bits <= 16 ? 2 : 4; }
};

/// Bytes that a micro-batch is expected to move for a memory tensor at S = 1 (DESIGN 2.1 and 2.4),
/// by either mode. Where GPU workers have a copy of the rows (on_device) only gradients count.
struct ExchangeBytes {
  double pushdown = 0;
  double pull = 0;
};
ExchangeBytes BytesOfExchange(const Config& config, const TensorSpec& tensor);

/// All tensors of a model in canonical order: embed, blocks (norm1, qkv, norm2, m1, mid_norm, m2 or
/// their dense counterparts), final_norm, head. `mode = auto` and `placement = auto` are resolved
/// here (DESIGN 2.4).
std::vector<TensorSpec> TensorsOf(const Config& config);

/// The spec called `name`, or nullptr.
const TensorSpec* FindTensor(const std::vector<TensorSpec>& tensors, const std::string& name);

}  // namespace mf
