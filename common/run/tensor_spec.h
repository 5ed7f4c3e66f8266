// A tensor as servers and workers have to agree on it: its size, how it begins, how it is updated
// and how its rows are exchanged.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <string>
#include <vector>

#include "common/run/optimizer_settings.h"

namespace mf {

/// Memory tensors are addressed by bucket, dense ones are read and written whole; the rows of keyed
/// ones come to be when they are first updated, and may have any number of 64 bits.
enum class TensorKind : uint8_t { kMemory, kDense, kKeyed };
inline constexpr std::array kTensorKindNames = {"memory", "dense", "keyed"};

/// A keyed tensor always has so many tables, each for a range of row numbers, and of so many rows:
/// together 2^64. Servers have whole tables of it, and the sums over a table do not depend on who.
inline constexpr int64_t kKeyRanges = 64;
inline constexpr int64_t kRowsPerKeyRange = int64_t{1} << 58;

enum class Init : uint8_t { kNormal, kConstant };
inline constexpr std::array kInitNames = {"normal", "constant"};

/// How the numbers of a row are stored.
enum class RowType : uint8_t { kF32, kBf16 };
inline constexpr std::array kRowTypeNames = {"f32", "bf16"};

/// Servers sum the rows that a worker addresses, or send them to it.
enum class ExchangeMode : uint8_t { kPushdown, kPull };
inline constexpr std::array kExchangeModeNames = {"pushdown", "pull"};

/// A tensor on the servers: K tables of `rows` rows of `columns` numbers. Dense tensors (gains,
/// biases, matrices) have K = 1. Row r of table k has the global row id k * rows + r. Which row a
/// key has in a keyed tensor: common/run/keyed_rows.h.
struct TensorSpec {
  uint32_t id = 0;        // position in the run's list
  std::string name = {};  // as in the export
  TensorKind kind = TensorKind::kDense;
  int64_t tables = 1;   // K
  int64_t rows = 1;     // per table; of memory tensors a power of two
  int64_t columns = 1;  // h
  int64_t probes = 1;   // memory: rows read per table and token
  Init init = Init::kConstant;
  double init_value = 0;  // standard deviation, or the constant
  OptimizerSettings optimizer = {};
  double rate_scale = 1;                    // its learning rate over that of the schedule
  double weight_decay = 0;                  // decoupled
  RowType row_type = RowType::kF32;         // as readers see the rows
  ExchangeMode mode = ExchangeMode::kPull;  // fixed for a run
  bool on_device = false;                   // GPU workers keep a copy of the rows
  // Of keyed tensors, 0: no.
  int64_t admit_hits =
      0;  // a key has its row with so many hits; until then its gradient is dropped
  int64_t waiting_keys =
      0;  // with admit_hits > 1: most keys whose hits are counted, over all ranges
  int64_t expire_steps = 0;         // rows that so many applied steps did not hit are dropped
  std::vector<int64_t> shape = {};  // in the export: of all its numbers, or of a keyed tensor's row

  /// The largest global row id.
  uint64_t last_row() const {
    return static_cast<uint64_t>(tables) * static_cast<uint64_t>(rows) - 1;
  }
  /// REQUIRES: not keyed, whose 2^64 do not fit.
  uint64_t total_rows() const { return last_row() + 1; }
  /// How many numbers its rows hold. REQUIRES: not keyed.
  uint64_t values() const { return total_rows() * static_cast<uint64_t>(columns); }
  /// log2(rows), of a memory tensor: bits of a bucket index.
  int index_bits() const { return std::bit_width(static_cast<uint64_t>(rows)) - 1; }
  /// Bytes of one bucket index on the wire: 1, 2 or 4.
  int index_bytes() const { return index_bits() <= 8 ? 1 : index_bits() <= 16 ? 2 : 4; }
  /// A memory layer's name for people: the tensor's without its last part. Others' is their own.
  std::string layer() const {
    return kind == TensorKind::kMemory ? name.substr(0, name.rfind('.')) : name;
  }
  bool operator==(const TensorSpec&) const = default;
};

/// The spec called `name`, or nullptr.
const TensorSpec* FindTensor(const std::vector<TensorSpec>& tensors, const std::string& name);

}  // namespace mf
