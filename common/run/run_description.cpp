#include "common/run/run_description.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string_view>
#include <unordered_set>

#include "common/base/check.h"
#include "common/base/digest.h"
#include "common/run/column_blocks.h"
#include "common/run/tensor_share.h"

namespace mf {
namespace {

constexpr size_t kTensorsMax = 1 << 16;
constexpr int64_t kTablesMax = 1 << 20;  // of all tensors: each has some hundred bytes on a server
constexpr size_t kNameMax = 256;
constexpr int kIndexBitsMax = 28;
constexpr int64_t kColumnsMax = 1 << 20;       // a row fits a chunk of a server's memory
constexpr int64_t kDenseNumbersMax = 1 << 28;  // 1 GiB: one message
// Of all tensors, with padded rows: bytes of state and gradients do not overflow 64 bits.
constexpr double kNumbersMax = 0x1p56;
constexpr size_t kDimensionsMax = 8;
constexpr int64_t kHitsMax = 1'000'000'000;  // 32 bits
constexpr int64_t kWaitingKeysMax = int64_t{1} << 32;
constexpr int64_t kExpireStepsMax = 1'000'000'000;
constexpr uint64_t kSeedMax = uint64_t{1} << 53;  // exact in JSON readers that know only doubles

/// False for NaN.
bool Within(double value, double low, double high) { return value >= low && value <= high; }

/// Collects ranges; keeps the first value that is out of its.
class Ranges {
 public:
  explicit Ranges(std::string where) : where_(std::move(where)) {}
  void Check(const char* name, double value, double low, double high) {
    Check(name, Within(value, low, high), "is out of range");
  }
  void Check(const char* name, bool holds, const char* what) {
    if (status_.ok() && !holds) {
      status_ = Status::Invalid("run description: " + where_ + ": " + name + " " + what);
    }
  }
  const Status& status() const { return status_; }

 private:
  const std::string where_;
  Status status_;
};

void Check(Ranges& r, const char* name, int64_t value, int64_t low, int64_t high) {
  r.Check(name, value >= low && value <= high, "is out of range");
}

Status CheckRules(const RunRules& rules) {
  Ranges r("rules");
  Check(r, "steps", rules.steps, 1, 1'000'000'000);
  Check(r, "steps_before", rules.steps_before, 0, 1'000'000'000);
  Check(r, "micro_batches", rules.micro_batches, 1, 65536);
  Check(r, "tokens_per_micro_batch", rules.tokens_per_micro_batch, 1, 1 << 24);
  Check(r, "window", rules.window, 1, 1024);
  r.Check("lease_seconds", rules.lease_seconds, 0.01, 86400);
  r.Check("schedule.peak", rules.schedule.peak, 0, 100);
  r.Check("schedule.warmup_ratio", rules.schedule.warmup_ratio, 0, 1);
  r.Check("schedule.min_ratio", rules.schedule.min_ratio, 0, 1);
  Check(r, "schedule.steps", rules.schedule.steps, 0, 2'000'000'000);
  r.Check("clip", rules.clip, 0, 1e9);
  Check(r, "eval_every", rules.eval_every, 0, 1'000'000'000);
  Check(r, "snapshots.every_steps", rules.snapshots.every_steps, 0, 1'000'000'000);
  r.Check("snapshots.every_minutes", rules.snapshots.every_minutes, 0, 1e6);
  Check(r, "snapshots.keep", rules.snapshots.keep, 1, 1'000'000);
  Check(r, "column_blocks", rules.column_blocks, 0, 4096);
  r.Check("seed", rules.seed <= kSeedMax, "is out of range");
  return r.status();
}

/// The product of the dimensions is `numbers`.
bool ShapeFits(const std::vector<int64_t>& shape, int64_t numbers) {
  if (shape.empty() || shape.size() > kDimensionsMax) return false;
  for (const int64_t size : shape) {
    if (size < 1 || numbers % size != 0) return false;
    numbers /= size;
  }
  return numbers == 1;
}

/// Of the rows that there are from the beginning.
double PaddedNumbers(const TensorSpec& t) {
  if (t.kind == TensorKind::kKeyed) return 0;
  return static_cast<double>(t.total_rows()) *
         static_cast<double>(PaddedColumns(static_cast<size_t>(t.columns)));
}

bool IsName(std::string_view name) {
  return !name.empty() && name.size() <= kNameMax &&
         std::all_of(name.begin(), name.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

/// `tensor` has a valid name.
Status CheckTensor(const TensorSpec& t, const RunRules& rules) {
  Ranges r("tensor " + t.name);
  const bool memory = t.kind == TensorKind::kMemory, keyed = t.kind == TensorKind::kKeyed;
  if (keyed) {
    Check(r, "tables", t.tables, kKeyRanges, kKeyRanges);
    Check(r, "rows", t.rows, kRowsPerKeyRange, kRowsPerKeyRange);
  } else {
    Check(r, "tables", t.tables, 1, memory ? kTablesMax : 1);
    Check(r, "rows", t.rows, 1, int64_t{1} << kIndexBitsMax);
  }
  Check(r, "columns", t.columns, 1, kColumnsMax);
  MF_RETURN_IF_ERROR(r.status());  // their products can be formed
  r.Check("size", PaddedNumbers(t), keyed ? 0 : 1, kNumbersMax);
  if (memory) {
    r.Check("rows", std::has_single_bit(static_cast<uint64_t>(t.rows)), "are no power of two");
    Check(r, "probes", t.probes, 1, std::max(1, t.index_bits()));
  } else {
    if (!keyed) Check(r, "size", t.rows * t.columns, 1, kDenseNumbersMax);
    Check(r, "probes", t.probes, 1, 1);
    r.Check("mode", t.mode == ExchangeMode::kPull, "must be pull: nothing sums such a tensor");
  }
  Check(r, "admit_hits", t.admit_hits, 0, keyed ? kHitsMax : 0);
  const bool waits = t.admit_hits > 1;
  Check(r, "waiting_keys", t.waiting_keys, waits ? t.tables : 0, waits ? kWaitingKeysMax : 0);
  Check(r, "expire_steps", t.expire_steps, 0, keyed ? kExpireStepsMax : 0);
  r.Check("expire_steps", t.expire_steps == 0 || t.optimizer.sparse_update == SparseUpdate::kLazy,
          "needs lazy updates: otherwise no step leaves a row as it is");
  MF_RETURN_IF_ERROR(r.status());
  r.Check("shape", ShapeFits(t.shape, keyed ? t.columns : t.tables * t.rows * t.columns),
          "is not that of its rows");
  r.Check("init_value", t.init_value, t.init == Init::kNormal ? 0 : -1e30, 1e30);
  r.Check("optimizer.beta1", t.optimizer.beta1 >= 0 && t.optimizer.beta1 < 1, "is out of range");
  r.Check("optimizer.beta2", t.optimizer.beta2 >= 0 && t.optimizer.beta2 < 1, "is out of range");
  // Optimizers divide by it as float32.
  r.Check("optimizer.eps",
          static_cast<float>(t.optimizer.eps) >= std::numeric_limits<float>::min() &&
              t.optimizer.eps <= 1,
          "is out of range");
  r.Check("rate_scale", t.rate_scale, 0, 1e6);
  r.Check("weight_decay", t.weight_decay, 0, 10);
  r.Check("weight_decay", rules.schedule.peak * t.rate_scale * t.weight_decay < 1,
          "times the highest learning rate must be below 1");
  return r.status();
}

const TensorSpec& Narrowest(const RunDescription& run) {
  MF_CHECK(!run.tensors.empty());
  const auto most = [&run](const TensorSpec& tensor) {
    return MostShards(tensor, run.rules.column_blocks);
  };
  return *std::min_element(run.tensors.begin(), run.tensors.end(),
                           [&](const auto& a, const auto& b) { return most(a) < most(b); });
}

}  // namespace

const TensorSpec* FindTensor(const std::vector<TensorSpec>& tensors, const std::string& name) {
  for (const TensorSpec& tensor : tensors) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

Status RunDescription::Check() const {
  MF_RETURN_IF_ERROR(CheckRules(rules));
  Ranges r("tensors");
  r.Check("list", !tensors.empty() && tensors.size() <= kTensorsMax, "must have 1 to 65536");
  std::unordered_set<std::string_view> names;
  int64_t tables = 0;
  double numbers = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorSpec& tensor = tensors[i];
    MF_RETURN_IF_ERROR(r.status());
    r.Check("ids", tensor.id == i, "must be positions");
    r.Check("names", IsName(tensor.name), "must be 1 to 256 printable characters without spaces");
    r.Check("names", names.insert(tensor.name).second, "must be different");
    MF_RETURN_IF_ERROR(r.status());
    MF_RETURN_IF_ERROR(CheckTensor(tensor, rules));
    tables += tensor.tables;
    numbers += PaddedNumbers(tensor);
    r.Check("tables", tables <= kTablesMax, "are more than 1048576 together");
    r.Check("sizes", numbers <= kNumbersMax, "are more than 2^56 numbers together");
  }
  return r.status();
}

std::string RunDescription::RunId() const { return Sha256Hex(Identity()); }

int64_t MaxShards(const RunDescription& run) {
  return MostShards(Narrowest(run), run.rules.column_blocks);
}

Status CheckShards(const RunDescription& run, int64_t shards) {
  if (shards < 1) return Status::Invalid("shards: " + std::to_string(shards) + " is below 1");
  const int64_t most = MaxShards(run);
  if (shards <= most) return Status::Ok();
  const TensorSpec& narrowest = Narrowest(run);
  const bool keyed = narrowest.kind == TensorKind::kKeyed;
  return Status::Invalid("shards: " + std::to_string(shards) + " servers, but tensor " +
                         narrowest.name + " has only " + std::to_string(most) +
                         (keyed ? " ranges of keys" : " column blocks") + "; use at most " +
                         std::to_string(most) + " servers" +
                         (keyed ? "" : " or raise column_blocks"));
}

}  // namespace mf
