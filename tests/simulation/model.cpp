#include "tests/simulation/model.h"

#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "common/base/random.h"
#include "common/kernels/pairs.h"
#include "common/run/schedule.h"
#include "tests/support/shard_harness.h"
#include "worker/config/tensors.h"

namespace mf::simulation {
namespace {

constexpr size_t kReadableMax = 1024;  // numbers

/// All tensors before the first step, as one undisturbed server makes them from the seed.
const std::vector<std::vector<float>>& InitialValues(const Config& config) {
  static std::map<std::pair<int64_t, bool>, std::vector<std::vector<float>>> known;
  auto& values = known[{config.model.d, config.model.projection == Projection::kMemory}];
  if (!values.empty()) return values;
  ShardHarness server(config, {.memory_bytes = 0, .threads = 1, .recover = true});
  for (const TensorSpec& tensor : server.specs()) {
    const Reply reply = server.Send(server.PullAll(tensor));
    MF_CHECK(reply.code == Code::kOk);
    const float* begin = reply.payload[0].as<float>();
    values.emplace_back(begin, begin + reply.payload[0].size() / sizeof(float));
  }
  return values;
}

Frame Columns(const std::vector<float>& values, size_t columns, ColumnRange range) {
  const size_t rows = values.size() / columns, width = static_cast<size_t>(range.size());
  Buffer buffer(rows * width * sizeof(float));
  for (size_t row = 0; row < rows; ++row) {
    std::memcpy(buffer.as<float>() + row * width,
                &values[row * columns + static_cast<size_t>(range.begin)], width * sizeof(float));
  }
  return buffer;
}

}  // namespace

Config SmallestConfig(int64_t servers, bool memory) {
  Config config;
  config.model.d = 16 * servers;  // a block of 16 columns for each
  config.model.tau = 4;
  config.model.K = config.model.d / config.model.tau;
  config.model.expand_bits = 1;
  config.model.layers = 1;
  config.model.heads = 1;
  config.model.sequence = 2;
  config.model.vocabulary = 4;
  config.model.projection = memory ? Projection::kMemory : Projection::kDense;
  config.train.batch = 1;
  config.train.lr = 1;
  config.train.warmup_ratio = 0;
  config.train.min_lr_ratio = 1;
  config.train.weight_decay = 0;
  config.train.clip = 0;
  config.train.optimizer = OptimizerKind::kSgd;
  config.snapshot.every_minutes = 0;
  return config;
}

RunModel::RunModel(const Config& config, size_t servers, std::set<uint64_t> bad_steps,
                   uint64_t seed)
    : config_(config),
      tensors_(TensorsOf(config_)),
      rules_(DescribeRun(config_, "").rules),
      bad_steps_(std::move(bad_steps)),
      seed_(seed),
      shares_(SharesOf(tensors_, config_.model.column_blocks, servers)),
      values_(InitialValues(config)) {
  for (const TensorSpec& tensor : tensors_) {
    layouts_.emplace_back();
    for (size_t server = 0; server < servers; ++server) {
      layouts_.back().push_back(LayoutOf(tensor, config_.model.column_blocks,
                                         static_cast<int64_t>(server),
                                         static_cast<int64_t>(servers)));
    }
    if (tensor.kind == TensorKind::kDense && values_[tensor.id].size() <= kReadableMax) {
      readable_.push_back(tensor.id);
    }
  }
  for (uint64_t step = 0; step <= static_cast<uint64_t>(config_.train.steps); ++step) {
    norms_.push_back(0);
    if (step > 0) ApplyStep(step);
    history_.emplace_back();
    for (const uint32_t tensor : readable_) history_.back()[tensor] = values_[tensor];
  }
}

RunModel::Gradient RunModel::GradientOf(const TensorSpec& tensor, uint64_t step,
                                        uint32_t number) const {
  const uint64_t key = RandomKey(RandomKey(RandomKey(seed_, step), number), tensor.id);
  const size_t columns = static_cast<size_t>(tensor.columns);
  Gradient gradient;
  size_t rows = tensor.total_rows();
  if (Pairs(tensor)) {
    rows = static_cast<size_t>(config_.tokens_per_micro_batch());
    gradient.buckets.resize(static_cast<size_t>(tensor.tables) * rows);
    for (size_t i = 0; i < gradient.buckets.size(); ++i) {
      gradient.buckets[i] =
          static_cast<uint8_t>(RandomBelow(RandomKey(key, i), static_cast<uint64_t>(tensor.rows)));
    }
  } else if (rows > 1) {
    // Few of many rows: what is left out must stay as it is.
    uint64_t row = RandomBelow(RandomKey(key, 1), 3);
    for (size_t i = 2; row < tensor.total_rows() && gradient.rows.size() < 2; ++i) {
      gradient.rows.push_back(row);
      row += 1 + RandomBelow(RandomKey(key, i), tensor.total_rows());
    }
    rows = gradient.rows.size();
  }
  gradient.values.resize(rows * columns);
  for (size_t i = 0; i < gradient.values.size(); i += 16) {
    uint64_t bits = RandomKey(~key, i);
    for (size_t j = i; j < std::min(i + 16, gradient.values.size()); ++j, bits >>= 4) {
      gradient.values[j] = static_cast<float>(bits & 7) - 3;
    }
  }
  return gradient;
}

void RunModel::ApplyStep(uint64_t step) {
  if (Dropped(step)) {
    norms_[step] = std::numeric_limits<double>::quiet_NaN();
    return;
  }
  double squares = 0;
  std::map<uint64_t, std::vector<int64_t>> sums;  // by row
  for (const TensorSpec& tensor : tensors_) {
    sums.clear();
    const size_t columns = static_cast<size_t>(tensor.columns);
    const auto add = [&](uint64_t row, const float* values) {
      std::vector<int64_t>& sum = sums[row];
      sum.resize(columns);
      for (size_t c = 0; c < columns; ++c) sum[c] += static_cast<int64_t>(values[c]);
    };
    for (uint32_t m = 0; m < config_.train.micro_batches; ++m) {
      const Gradient gradient = GradientOf(tensor, step, m);
      const size_t tokens = static_cast<size_t>(config_.tokens_per_micro_batch());
      for (size_t i = 0; i < gradient.buckets.size(); ++i) {
        add(i / tokens * static_cast<size_t>(tensor.rows) + gradient.buckets[i],
            &gradient.values[i % tokens * columns]);
      }
      if (!gradient.buckets.empty()) continue;
      for (size_t i = 0; i < gradient.values.size() / columns; ++i) {
        add(gradient.rows.empty() ? i : gradient.rows[i], &gradient.values[i * columns]);
      }
    }
    for (const auto& [row, sum] : sums) {
      for (size_t c = 0; c < columns; ++c) {
        values_[tensor.id][row * columns + c] -= static_cast<float>(sum[c]);
        squares += static_cast<double>(sum[c] * sum[c]);
      }
    }
  }
  norms_[step] = std::sqrt(squares);
}

std::vector<Request> RunModel::Contributions(uint32_t tensor, OpenStep at, uint32_t number) const {
  std::vector<Request>& made = contributions_[{tensor, at.step, number}];
  if (made.empty()) made = MakeContributions(tensor, at.step, number);
  std::vector<Request> requests = made;
  for (Request& request : requests) {
    if (auto* backward = std::get_if<BackwardRequest>(&request.body)) {
      backward->at = at;
    } else {
      std::get<PushRequest>(request.body).at = at;
    }
  }
  return requests;
}

std::vector<Request> RunModel::MakeContributions(uint32_t tensor, uint64_t step,
                                                 uint32_t number) const {
  const TensorSpec& spec = tensors_[tensor];
  const size_t columns = static_cast<size_t>(spec.columns);
  Gradient gradient = GradientOf(spec, step, number);
  if (Dropped(step) && number == step % static_cast<uint64_t>(config_.train.micro_batches) &&
      tensor == step % tensors_.size()) {
    gradient.values[gradient.values.size() / 2] = std::numeric_limits<float>::infinity();
  }
  Request request;
  std::vector<int8_t> exponents;
  if (Pairs(spec)) {
    const uint32_t tokens = static_cast<uint32_t>(config_.tokens_per_micro_batch());
    request.body = BackwardRequest{.tensor = tensor, .micro_batch = number, .tokens = tokens};
    const std::vector<float> ones(gradient.buckets.size(), 1.0f);
    request.payload = {FrameOf(gradient.buckets), FrameOf(ones)};
    for (size_t t = 0; t < tokens; ++t) {
      exponents.push_back(DotExponent(&gradient.values[t * columns], columns));
    }
  } else {
    request.body = PushRequest{
        .tensor = tensor, .micro_batch = number, .row_count = gradient.values.size() / columns};
    request.payload = {FrameOf(gradient.rows), Frame()};
  }
  std::vector<Request> requests;
  for (const TensorLayout& layout : layouts_[tensor]) {
    requests.push_back(request);
    requests.back().payload.push_back(Columns(gradient.values, columns, layout.share.columns));
    if (!exponents.empty()) requests.back().payload.push_back(FrameOf(exponents));
  }
  return requests;
}

Request RunModel::Lookup(const Request& contribution) const {
  const auto& backward = std::get<BackwardRequest>(contribution.body);
  return {
      .body =
          ForwardRequest{.at = backward.at, .tensor = backward.tensor, .tokens = backward.tokens},
      .payload = {contribution.payload[0], contribution.payload[1]}};
}

double RunModel::LossSum(uint64_t step, uint32_t number) const {
  return 1 + RandomUnit(RandomKey(RandomKey(seed_ ^ 0x1055, step), number));
}

std::vector<float> RunModel::Readable(uint32_t tensor, uint64_t step, size_t server) const {
  const Frame own =
      Columns(history_.at(step).at(tensor), static_cast<size_t>(tensors_[tensor].columns),
              layouts_[tensor][server].share.columns);
  return {own.as<float>(), own.as<float>() + own.size() / sizeof(float)};
}

double RunModel::ValLoss(uint64_t step) const {
  double sum = 0;
  for (const float value : history_.at(step).at(readable_.back())) sum += std::abs(value);
  return sum;
}

StepRecord RunModel::Record(uint64_t step) const {
  StepRecord record;
  record.step = step;
  for (uint32_t m = 0; m < config_.train.micro_batches; ++m) record.loss += LossSum(step, m);
  record.loss /=
      static_cast<double>(config_.train.micro_batches * config_.tokens_per_micro_batch());
  record.lr = LearningRate(rules_, step);
  record.grad_norm = norms_[step];
  record.dropped = Dropped(step);
  const uint64_t every = static_cast<uint64_t>(config_.train.eval_every);
  record.has_val_loss =
      step == static_cast<uint64_t>(config_.train.steps) || (every > 0 && step % every == 0);
  if (record.has_val_loss) record.val_loss = ValLoss(step);
  return record;
}

std::vector<float> RunModel::Final(uint32_t tensor, size_t server) const {
  const Frame own = Columns(values_[tensor], static_cast<size_t>(tensors_[tensor].columns),
                            layouts_[tensor][server].share.columns);
  return {own.as<float>(), own.as<float>() + own.size() / sizeof(float)};
}

}  // namespace mf::simulation
