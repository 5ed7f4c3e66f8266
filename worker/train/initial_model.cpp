#include "worker/train/initial_model.h"

#include <algorithm>
#include <utility>

#include "worker/config/config_keys.h"

namespace mf {
namespace {

std::string SizeOf(const TensorSpec& t) {
  const std::string size = std::to_string(t.rows) + " x " + std::to_string(t.columns);
  return t.tables == 1 ? size : std::to_string(t.tables) + " x " + size;
}

bool SameSize(const TensorSpec& a, const TensorSpec& b) {
  return a.name == b.name && a.kind == b.kind && a.tables == b.tables && a.rows == b.rows &&
         a.columns == b.columns;
}

Status CheckSizes(const std::string& path, const std::vector<TensorSpec>& its,
                  const std::vector<TensorSpec>& ours) {
  const auto differ = [&](const std::string& what) {
    return Status::Invalid("--init " + path + ": another model than the run's: " + what +
                           "; [model] has to be as it was");
  };
  for (size_t i = 0; i < std::min(its.size(), ours.size()); ++i) {
    if (SameSize(its[i], ours[i])) continue;
    return differ(its[i].name + " of " + SizeOf(its[i]) + " there, " + ours[i].name + " of " +
                  SizeOf(ours[i]) + " here");
  }
  if (its.size() == ours.size()) return Status::Ok();
  return differ(std::to_string(its.size()) + " tensors there, " + std::to_string(ours.size()) +
                " here");
}

/// What was learned of a row's history means something to the same rule only.
Status CheckSameRules(const std::vector<TensorSpec>& its, const std::vector<TensorSpec>& ours) {
  for (size_t i = 0; i < its.size(); ++i) {
    const TensorSpec &a = its[i], &b = ours[i];
    if (a.optimizer == b.optimizer && a.weight_decay == b.weight_decay &&
        a.rate_scale == b.rate_scale) {
      continue;
    }
    return Status::Invalid(
        "--keep-optimizer: " + a.name +
        " was trained by another rule; train.optimizer, betas, eps, weight_decay and "
        "sparse_update have to be as they were, or leave the optimizer");
  }
  return Status::Ok();
}

}  // namespace

Result<std::unique_ptr<InitialModel>> InitialModel::Open(const Options& options, ThreadPool& pool) {
  if (options.path.empty()) {
    if (!options.keep_optimizer && options.step == 0) return std::unique_ptr<InitialModel>();
    return Status::Invalid(
        "--keep-optimizer and --init-step: are for --init, which names the snapshots");
  }
  MF_ASSIGN_OR_RETURN(auto rows,
                      InitialRows::Open(options.path, options.step, options.keep_optimizer, pool));
  return std::unique_ptr<InitialModel>(new InitialModel(options, std::move(rows)));
}

void InitialModel::Adopt(Config* config) const {
  const Config& its = rows_->config();
  if (config->data.tokenizer.empty()) config->tokenizer = its.tokenizer;
  if (!rows_->steps().has_value()) return;
  config->model.seed = its.model.seed;
  if (rows_->with_optimizer() && config->train.steps_before == 0) {
    config->train.steps_before = static_cast<int64_t>(*rows_->steps());
  }
}

Status InitialModel::Describe(const Config& config, RunDescription* run) const {
  const std::vector<TensorSpec>& its = rows_->tensors();
  MF_RETURN_IF_ERROR(CheckSizes(options_.path, its, run->tensors));
  if (config.tokenizer != rows_->config().tokenizer) {
    return Status::Invalid("--init " + options_.path +
                           ": has another tokenizer than the text of the run; prepare the text "
                           "with the model's");
  }
  if (rows_->with_optimizer()) MF_RETURN_IF_ERROR(CheckSameRules(its, run->tensors));
  run->initial = rows_->name();
  for (size_t i = 0; i < its.size(); ++i) {
    run->tensors[i].init_value = its[i].init_value * rows_->NeverUpdatedFactor(its[i]);
  }
  return Status::Ok();
}

std::vector<std::string> InitialModel::Summary(const Config& config) const {
  const auto& train = config.train;
  const std::string end = std::to_string(
      train.schedule_steps > 0 ? train.schedule_steps : train.steps_before + train.steps);
  std::string line = "begins with " + options_.path + ": " + rows_->name() + "; ";
  line += rows_->with_optimizer() ? "the optimizer goes on" : "the optimizer begins anew";
  line += ", the schedule and the order of the data at step " +
          std::to_string(train.steps_before + 1) + " of " + end;
  std::vector<std::string> lines;
  lines.push_back(std::move(line));
  if (train.schedule_steps > 0 && train.steps_before >= train.schedule_steps) {
    lines.emplace_back("the learning rate stays at its lowest: the schedule has ended before");
  }
  for (const ConfigKey& key : ConfigKeys()) {
    if (key.section != "model" || !key.decides_result) continue;
    if (!rows_->steps().has_value() && key.name == "seed") continue;
    const std::string there = FormatKeyValue(key.get(rows_->config()));
    const std::string here = FormatKeyValue(key.get(config));
    if (there != here) {
      lines.push_back(key.full_name() + ": the model was trained with " + there + ", here it is " +
                      here);
    }
  }
  return lines;
}

}  // namespace mf
