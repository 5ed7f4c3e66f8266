#include "worker/config/tensors.h"

#include <cmath>

namespace mf {
namespace {

/// The cheaper way by ExchangeBytes.
ExchangeMode CheaperMode(const Config& config, const TensorSpec& tensor) {
  const ExchangeBytes bytes = BytesOfExchange(config, tensor);
  return bytes.pull < bytes.pushdown ? ExchangeMode::kPull : ExchangeMode::kPushdown;
}

class Builder {
 public:
  explicit Builder(const Config& config) : config_(config) {}

  void Dense(const std::string& name, int64_t rows, int64_t columns, std::vector<int64_t> shape,
             Init init, double value, bool decay) {
    TensorSpec spec;
    spec.name = name;
    spec.rows = rows;
    spec.columns = columns;
    spec.init = init;
    spec.init_value = value;
    spec.weight_decay = decay ? config_.train.weight_decay : 0;
    spec.shape = std::move(shape);
    Add(std::move(spec));
  }
  void Matrix(const std::string& name, int64_t rows, int64_t columns, double stddev) {
    Dense(name, rows, columns, {rows, columns}, Init::kNormal, stddev, true);
  }
  void Vector(const std::string& name, int64_t columns, double value) {
    Dense(name, 1, columns, {columns}, Init::kConstant, value, false);
  }
  void Norm(const std::string& name, int64_t columns, bool layernorm) {
    Vector(name + ".weight", columns, 1);
    if (layernorm) Vector(name + ".bias", columns, 0);
  }
  void Norm(const std::string& name, int64_t columns) {
    Norm(name, columns, config_.model.norm == NormKind::kLayerNorm);
  }
  void Memory(const std::string& name, int64_t bits, int64_t columns) {
    TensorSpec spec;
    spec.name = name + ".tables";
    spec.kind = TensorKind::kMemory;
    spec.tables = config_.model.K;
    spec.rows = int64_t{1} << bits;
    spec.columns = columns;
    spec.probes = config_.model.probes;
    spec.init = Init::kNormal;
    spec.init_value = std::sqrt(2.0 / (5.0 * static_cast<double>(config_.model.d)));
    spec.weight_decay = config_.train.weight_decay;
    spec.row_type = config_.model.table_dtype;
    spec.shape = {spec.tables, spec.rows, columns};
    spec.on_device = TakesDevice(spec);
    spec.mode = config_.exchange.mode.value_or(CheaperMode(config_, spec));
    Add(std::move(spec));
    Vector(name + ".bias", columns, 0);
  }
  void Linear(const std::string& name, int64_t in, int64_t out) {
    Matrix(name + ".weight", in, out,
           std::sqrt(2.0 / (5.0 * static_cast<double>(config_.model.d))));
    Vector(name + ".bias", out, 0);
  }

  std::vector<TensorSpec> Take() { return std::move(tensors_); }

 private:
  /// Whether GPU workers keep a copy: by the configuration alone, in the order of the tensors.
  bool TakesDevice(const TensorSpec& spec) {
    if (config_.exchange.placement != Placement::kAuto) {
      return config_.exchange.placement == Placement::kDevice;
    }
    const double bytes = 4.0 * static_cast<double>(spec.values());
    if (device_bytes_ + bytes > static_cast<double>(config_.exchange.device_bytes)) return false;
    device_bytes_ += bytes;
    return true;
  }
  void Add(TensorSpec spec) {
    spec.id = static_cast<uint32_t>(tensors_.size());
    const TrainConfig& train = config_.train;
    spec.optimizer = {train.optimizer, train.beta1, train.beta2, train.eps, train.sparse_update};
    tensors_.push_back(std::move(spec));
  }

  const Config& config_;
  std::vector<TensorSpec> tensors_;
  double device_bytes_ = 0;  // of copies so far
};

}  // namespace

ExchangeBytes BytesOfExchange(const Config& config, const TensorSpec& tensor) {
  const double tokens = static_cast<double>(config.tokens_per_micro_batch());
  const double rows = static_cast<double>(tensor.rows);
  const double pairs = static_cast<double>(tensor.tables * config.model.probes);
  const double columns = static_cast<double>(tensor.columns);
  const double number = static_cast<double>(NumberBytes(config.exchange.wire));
  const double index = tensor.index_bytes();
  const double ways = tensor.on_device ? 1 : 2;
  const double reads = tokens * static_cast<double>(config.model.probes);
  const double distinct = static_cast<double>(tensor.tables) * rows * -std::expm1(-reads / rows);
  return {
      .pushdown = tokens * (ways * pairs * (index + 4) + 1 + ways * columns * number + 8 * pairs),
      // A row id each way and a hit count with the gradient; the values each way, f32 on any wire.
      .pull = distinct * (ways * 8 + 4 + ways * columns * 4)};
}

std::vector<TensorSpec> TensorsOf(const Config& config) {
  const ModelConfig& m = config.model;
  Builder build(config);
  build.Matrix("embed.weight", m.vocabulary, m.d, 0.02);
  for (int64_t layer = 0; layer < m.layers; ++layer) {
    const std::string block = "blocks." + std::to_string(layer) + ".";
    build.Norm(block + "norm1", m.d);
    if (m.projection == Projection::kMemory) {
      build.Memory(block + "qkv", m.tau, 3 * m.d);
      build.Norm(block + "norm2", m.d);
      build.Memory(block + "m1", m.tau, m.expanded());
      build.Norm(block + "mid_norm", m.expanded(), /*layernorm=*/true);
      build.Memory(block + "m2", m.tau + m.expand_bits, m.d);
    } else {
      build.Linear(block + "qkv", m.d, 3 * m.d);
      build.Linear(block + "out", m.d, m.d);
      build.Norm(block + "norm2", m.d);
      build.Linear(block + "fc1", m.d, 4 * m.d);
      build.Linear(block + "fc2", 4 * m.d, m.d);
    }
  }
  build.Norm("final_norm", m.d);
  build.Matrix("head.weight", m.vocabulary, m.d, 0.02);
  return build.Take();
}

namespace {
bool SameTensors(std::vector<TensorSpec> tensors, const RunDescription& run) {
  // What the rows that its initial state does not bring begin with (worker/train/initial_state.h).
  for (size_t i = 0; !run.initial.empty() && i < std::min(tensors.size(), run.tensors.size()); ++i)
    tensors[i].init_value = run.tensors[i].init_value;
  return tensors == run.tensors;
}
}  // namespace

RunDescription DescribeRun(const Config& config, const std::string& data_digest) {
  const TrainConfig& train = config.train;
  return {.tensors = TensorsOf(config),
          .rules = {.steps = train.steps,
                    .steps_before = train.steps_before,
                    .micro_batches = train.micro_batches,
                    .tokens_per_micro_batch = config.tokens_per_micro_batch(),
                    .window = train.window,
                    .lease_seconds = train.lease_seconds,
                    .schedule = {train.lr, train.warmup_ratio, train.min_lr_ratio,
                                 train.schedule_steps},
                    .clip = train.clip,
                    .eval_every = train.eval_every,
                    .snapshots = config.snapshot,
                    .wire = config.exchange.wire,
                    .column_blocks = config.model.column_blocks,
                    .seed = config.model.seed},
          .about = IdentityJson(config),
          .data = data_digest};
}

Result<Config> ConfigOf(const RunDescription& run) {
  Result<Config> config = ConfigFromJson(run.about);
  if (config.ok() && SameTensors(TensorsOf(*config), run)) return config;
  return Status::Invalid(
      "this run is not a language model of this version: " +
      (config.ok() ? "its tensors are not those of its configuration" : config.status().message()) +
      "; use the program that trained it");
}

}  // namespace mf
