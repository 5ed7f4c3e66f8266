// The configuration of a run: one struct per TOML section, the same words as the keys (DESIGN 4).
// Everything is parsed, resolved and checked here, once; nothing else reads TOML or the
// environment. Servers do not know it: they get a run's description (worker/config/tensors.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/run/run_description.h"

namespace mf {

enum class Score { kSoftmax, kScaled };  // w_b = p_b, or p_b * sim_b
enum class NormKind { kRmsNorm, kLayerNorm };
enum class Projection { kMemory, kDense };
enum class Placement { kAuto, kServer, kDevice };
enum class IdType { kAuto, kU16, kU32 };  // of .bin files; kAuto: worker/data/id_format.h

struct ModelConfig {
  int64_t d = 128;  // width of the residual stream
  int64_t layers = 4;
  int64_t heads = 4;
  int64_t K = 16;           // tables per memory layer; d = K * tau. 0 in a file: d / tau
  int64_t tau = 8;          // bits per table
  int64_t expand_bits = 2;  // e: M2's tables have tau + e bits
  int64_t sequence = 256;   // tokens per sequence
  int64_t vocabulary = 257;
  Score score = Score::kScaled;
  int64_t probes = 1;        // buckets read per table
  double temperature = 1.0;  // t of eq. 9
  NormKind norm = NormKind::kRmsNorm;
  Projection projection = Projection::kMemory;
  double rotary_pct = 0.25;
  int64_t column_blocks = 0;  // V; 0: by width (common/run/column_blocks.h)
  RowType table_dtype = RowType::kF32;
  uint64_t seed = 1;

  /// Width of M1's output and of M2's input: (tau + e) * K.
  int64_t expanded() const { return (tau + expand_bits) * K; }
  int64_t head_dim() const { return d / heads; }
};

struct TrainConfig {
  int64_t steps = 800;
  int64_t schedule_steps = 0;  // where the schedule ends; 0: with the run
  int64_t steps_before = 0;    // of earlier training: schedule and order of data go on after them
  int64_t micro_batches = 4;   // G, per step
  int64_t batch = 4;           // sequences per micro-batch
  int64_t window = 8;          // micro-batches leased ahead of the lowest unfinished one
  double lease_seconds = 30;
  double lr = 3e-3;  // peak
  double warmup_ratio = 0.01;
  double min_lr_ratio = 0.01;
  double weight_decay = 0.1;
  double clip = 1.0;  // global gradient norm; 0: no clipping
  OptimizerKind optimizer = OptimizerKind::kAdam;
  double beta1 = 0.9;  // key `betas = [0.9, 0.95]`
  double beta2 = 0.95;
  double eps = 1e-8;
  SparseUpdate sparse_update = SparseUpdate::kExact;
  int64_t eval_every = 100;  // steps; 0: only after the last
  int64_t eval_batches = 8;  // sequences per evaluation
  uint64_t seed = 1;         // data order
};

struct DataConfig {
  double validation_ratio = 0.1;
  bool binary = false;         // take the bytes of text files as they are, whatever they are
  IdType ids = IdType::kAuto;  // of .bin files
  std::string tokenizer = {};  // file; empty: that of the prepared data, or bytes
};

struct ExchangeConfig {
  std::optional<ExchangeMode> mode;  // none: the cheaper one by tensor
  Placement placement = Placement::kAuto;
  int64_t device_bytes = 0;
  Wire wire = Wire::kF32;
  int64_t in_flight = 2;  // micro-batches a worker works on at once
  double deadline_seconds = 60;
};

struct Config {
  ModelConfig model;
  TrainConfig train;
  SnapshotRules snapshot;
  DataConfig data;
  ExchangeConfig exchange;
  /// The tokenizer's file, whole; empty: bytes are tokens. Not a key: it belongs to the model, and
  /// is wherever the model's configuration is (worker/data/run_tokenizer.h).
  std::string tokenizer;

  int64_t tokens_per_micro_batch() const { return train.batch * model.sequence; }
};

/// Reads a TOML file (empty path: defaults only), then applies `overrides` ("section.key=value", a
/// TOML value, a bare word is a string), then resolves and checks. Errors name the file, the key
/// and what is allowed (Code::kInvalid).
Result<Config> LoadConfig(const std::string& path, const std::vector<std::string>& overrides);

/// The same, beginning with another configuration instead of a file's.
Result<Config> OverrideConfig(Config config, const std::vector<std::string>& overrides);

/// Checks ranges and relations (d == K * tau, heads divide d, ...). Called by LoadConfig.
Status CheckConfig(const Config& config);

/// The keys that decide the result of a run, resolved, as JSON with sorted keys: {"model": {...},
/// "train": {...}, ...}. Equal strings are equal runs, whatever their snapshots, leases, deadlines
/// and windows.
std::string IdentityJson(const Config& config);
/// All keys, resolved, as JSON with sorted keys.
std::string ConfigJson(const Config& config);
/// {"model": {...}}: what an exported file carries (DESIGN 8). All three have "tokenizer", too, the
/// file in base64, if there is one.
std::string ModelJson(const Config& config);
/// The inverse of all three, for what a run's description, a safetensors file or a run.json holds:
/// unknown keys are errors, absent ones have their defaults.
Result<Config> ConfigFromJson(const std::string& json);

/// All keys, resolved, as a TOML file that LoadConfig reads as the same.
std::string ConfigToml(const Config& config);

/// One row per key: name, default, allowed values, meaning; the table of docs/OPTIONS.md is made
/// from this.
std::string ConfigTableMarkdown();

}  // namespace mf
