#include "worker/experiment/results.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/base/files.h"
#include "common/base/machine_limits.h"
#include "worker/experiment/curves.h"
#include "worker/model/flops.h"
#include "worker/train/report.h"
#include "worker/train/run_file.h"

namespace mf {
namespace {

using nlohmann::ordered_json;

/// Operations of a training step over those of its forward pass: twice as many backward.
constexpr double kTrainingPasses = 3;
constexpr size_t kTrainPoints = 50;  // of a curve without evaluations

struct TrialResult {
  const Trial* trial;
  std::vector<StepReport> steps;
  std::optional<double> val_loss = {};  // of the last step
  double loss = 0;                      // mean of the last tenth of the steps
  int64_t dropped = 0;                  // steps whose gradient was not finite
  bool evaluated = false;               // at some step
};

struct Mean {
  double mean = 0;
  std::optional<double> spread;  // standard deviation, of two or more
};

Mean MeanOf(const std::vector<double>& values) {
  Mean mean;
  for (const double value : values) mean.mean += value / static_cast<double>(values.size());
  if (values.size() < 2) return mean;
  double squares = 0;
  for (const double value : values) squares += (value - mean.mean) * (value - mean.mean);
  mean.spread = std::sqrt(squares / static_cast<double>(values.size() - 1));
  return mean;
}

TrialResult ResultOf(const Trial& trial) {
  TrialResult result{.trial = &trial, .steps = ReadMetrics(trial.folder + "/metrics.jsonl")};
  for (const StepReport& step : result.steps) {
    result.dropped += step.dropped ? 1 : 0;
    result.evaluated |= step.val_loss.has_value();
  }
  if (!result.steps.empty()) result.val_loss = result.steps.back().val_loss;
  const size_t last = std::max<size_t>(1, result.steps.size() / 10);
  for (size_t i = result.steps.size() - std::min(last, result.steps.size());
       i < result.steps.size(); ++i) {
    result.loss += result.steps[i].loss / static_cast<double>(last);
  }
  return result;
}

class Results {
 public:
  Results(const Experiment& experiment, const std::vector<Trial>& trials)
      : experiment_(experiment), all_(trials.size()) {
    by_variant_.resize(experiment.variants.size());
    for (const Trial& trial : trials) {
      if (trial.finished) by_variant_[trial.variant].push_back(ResultOf(trial));
    }
  }

  std::string Json() const;
  std::string Table() const;
  std::string Page() const;
  std::string CurvesOver(const std::string& what) const;
  std::string LossOverBytes() const;

 private:
  template <class Value>
  Mean MeanOver(size_t variant, Value value) const {
    std::vector<double> values;
    for (const TrialResult& result : by_variant_[variant]) {
      if (!HasDiverged(result)) values.push_back(value(result));
    }
    return MeanOf(values);
  }
  /// On held-out data, if there is some, else on what was trained on.
  bool held_out() const {
    for (const auto& results : by_variant_) {
      for (const TrialResult& result : results) {
        if (result.evaluated) return true;
      }
    }
    return false;
  }
  /// It has no loss at its end, or none that is a number.
  bool HasDiverged(const TrialResult& result) const {
    return (held_out() && !result.val_loss.has_value()) || !std::isfinite(result.loss);
  }
  size_t Diverged(size_t variant) const {
    const auto& results = by_variant_[variant];
    return static_cast<size_t>(std::count_if(results.begin(), results.end(),
                                             [this](const auto& r) { return HasDiverged(r); }));
  }
  const char* loss_name() const {
    return held_out() ? "held-out loss (nats per token)" : "training loss (nats per token)";
  }
  double LossOf(const TrialResult& result) const {
    return held_out() ? *result.val_loss : result.loss;
  }
  FlopsReport FlopsOf(size_t variant) const {
    const Config& config = experiment_.variants[variant].resolved;
    return Flops(config, config.model.sequence);
  }
  double FlopsPerToken(size_t variant) const {
    return kTrainingPasses * static_cast<double>(FlopsOf(variant).model_flops) /
           static_cast<double>(experiment_.variants[variant].resolved.model.sequence);
  }
  std::vector<PlotPoint> CurveOf(const TrialResult& result, const std::string& what) const;
  size_t finished() const {
    size_t count = 0;
    for (const auto& results : by_variant_) count += results.size();
    return count;
  }

  const Experiment& experiment_;
  const size_t all_;
  std::vector<std::vector<TrialResult>> by_variant_;
};

std::string Number(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

std::string WithSpread(const char* format, const Mean& mean) {
  return Number(format, mean.mean) +
         (mean.spread.has_value() ? " ± " + Number(format, *mean.spread) : "");
}

ordered_json ToJson(const Mean& mean) {
  ordered_json json = {{"mean", mean.mean}};
  json["spread"] = mean.spread.has_value() ? ordered_json(*mean.spread) : ordered_json();
  return json;
}

std::string Results::Json() const {
  const Platform platform = ThisPlatform("CPU");
  ordered_json root;
  root["experiment"] = experiment_.name;
  root["finished"] = finished();
  root["trials"] = all_;
  root["program"] = platform.program.Text();
  root["machine"] = {{"processor", platform.processor}, {"processors", CpuLimit()}};
  root["variants"] = ordered_json::array();
  for (size_t v = 0; v < by_variant_.size(); ++v) {
    const ExperimentVariant& variant = experiment_.variants[v];
    const FlopsReport flops = FlopsOf(v);
    ordered_json item = {{"name", variant.name},
                         {"parameters", flops.parameters},
                         {"table_bytes", flops.table_bytes},
                         {"training_flops_per_token", FlopsPerToken(v)}};
    if (by_variant_[v].size() > Diverged(v)) {
      if (held_out()) {
        item["val_loss"] = ToJson(MeanOver(v, [](const auto& r) { return *r.val_loss; }));
      }
      item["loss"] = ToJson(MeanOver(v, [](const auto& r) { return r.loss; }));
      item["seconds"] = ToJson(MeanOver(v, [](const auto& r) { return r.trial->seconds; }));
    }
    item["trials"] = ordered_json::array();
    for (const TrialResult& result : by_variant_[v]) {
      ordered_json trial = {{"seed", result.trial->seed}, {"steps", result.steps.size()}};
      trial["tokens"] = result.steps.empty() ? 0 : result.steps.back().tokens;
      trial["val_loss"] =
          result.val_loss.has_value() ? ordered_json(*result.val_loss) : ordered_json();
      trial["loss"] = result.loss;
      trial["diverged"] = HasDiverged(result);
      trial["dropped_steps"] = result.dropped;
      trial["seconds"] = result.trial->seconds;
      trial["peak_bytes"] = result.trial->peak_bytes;
      item["trials"].push_back(std::move(trial));
    }
    ordered_json configuration = ordered_json::parse(ConfigJson(variant.resolved));
    for (const char* section : {"model", "train"}) configuration[section].erase("seed");
    item["configuration"] = std::move(configuration);  // the seeds are the trials'
    root["variants"].push_back(std::move(item));
  }
  return root.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

std::string Results::Table() const {
  std::string text =
      std::string("| variant | seeds | parameters | training FLOPs a token | ") +
      (held_out() ? "held-out" : "training") +
      " loss | seconds | tokens/s | peak memory |\n|---|---|---|---|---|---|---|---|\n";
  for (size_t v = 0; v < by_variant_.size(); ++v) {
    const auto& results = by_variant_[v];
    text += "| " + experiment_.variants[v].name + " | " + std::to_string(results.size()) + " of " +
            std::to_string(experiment_.seeds.size()) + " | " +
            Number("%.3g", static_cast<double>(FlopsOf(v).parameters)) + " | " +
            Number("%.3g", FlopsPerToken(v)) + " | ";
    if (Diverged(v) > 0) {
      text += "diverged in " + std::to_string(Diverged(v)) +
              (results.size() > Diverged(v) ? ", else " : " ");
    }
    if (results.size() == Diverged(v)) {
      text += "| | | |\n";
      continue;
    }
    text += WithSpread("%.4f", MeanOver(v, [this](const auto& r) { return LossOf(r); })) + " | ";
    text += WithSpread("%.1f", MeanOver(v, [](const auto& r) { return r.trial->seconds; })) + " | ";
    const Mean speed = MeanOver(v, [](const TrialResult& r) {
      const double tokens = r.steps.empty() ? 0 : static_cast<double>(r.steps.back().tokens);
      return r.trial->seconds > 0 ? tokens / r.trial->seconds : 0;
    });
    text += Number("%.0f", speed.mean) + " | ";
    const Mean peak = MeanOver(
        v, [](const TrialResult& r) { return static_cast<double>(r.trial->peak_bytes) / 0x1p20; });
    text += Number("%.0f MiB", peak.mean) + " |\n";
  }
  return text;
}

std::string Results::Page() const {
  const Platform platform = ThisPlatform("CPU");
  std::string text = "# " + experiment_.name + "\n\n" + Table() + "\n";
  text += "Mean and standard deviation over the seeds that are finished, " +
          std::to_string(finished()) + " of " + std::to_string(all_) +
          " trials. Seconds and memory are those of the whole process, servers and evaluations "
          "included. On " +
          platform.processor + ", " + std::to_string(CpuLimit()) + " processors, with " +
          platform.program.Text() + ".\n\n";
  for (const char* what : {"tokens", "seconds", "flops", "bytes"}) {
    text += std::string("![loss by ") + what + "](loss-by-" + what + ".svg)\n";
  }
  return text;
}

std::vector<PlotPoint> Results::CurveOf(const TrialResult& result, const std::string& what) const {
  std::vector<PlotPoint> points;
  double seconds = 0;
  int64_t tokens_before = 0;
  const double flops = FlopsPerToken(result.trial->variant);
  const size_t run = std::max<size_t>(1, result.steps.size() / kTrainPoints);
  double loss = 0;
  size_t count = 0;
  for (const StepReport& step : result.steps) {
    if (step.tokens_per_second > 0 && std::isfinite(step.tokens_per_second)) {
      seconds += static_cast<double>(step.tokens - tokens_before) / step.tokens_per_second;
    }
    tokens_before = step.tokens;
    const double x = what == "seconds" ? seconds
                     : what == "flops" ? flops * static_cast<double>(step.tokens)
                                       : static_cast<double>(step.tokens);
    loss += step.loss;
    ++count;
    if (held_out() ? step.val_loss.has_value() : count == run) {
      points.push_back({x, held_out() ? *step.val_loss : loss / static_cast<double>(count)});
      loss = 0;
      count = 0;
    }
  }
  return points;
}

std::string Results::CurvesOver(const std::string& what) const {
  const std::map<std::string, std::string> names = {
      {"tokens", "tokens"}, {"seconds", "seconds of training"}, {"flops", "FLOPs of training"}};
  CurvesPlot plot{.title = experiment_.name + ": loss by " + what,
                  .x_name = names.at(what),
                  .y_name = loss_name(),
                  .curves = {}};
  for (size_t v = 0; v < by_variant_.size(); ++v) {
    Curve curve{.name = experiment_.variants[v].name, .points = {}};
    // The mean over the seeds, as far as all of them go.
    std::vector<std::vector<PlotPoint>> all;
    for (const TrialResult& result : by_variant_[v]) {
      if (!HasDiverged(result)) all.push_back(CurveOf(result, what));
    }
    for (size_t i = 0; !all.empty(); ++i) {
      if (std::any_of(all.begin(), all.end(), [i](const auto& one) { return one.size() <= i; }))
        break;
      PlotPoint mean;
      std::vector<double> ys;
      for (const auto& one : all) {
        mean.x += one[i].x / static_cast<double>(all.size());
        ys.push_back(one[i].y);
      }
      const Mean y = MeanOf(ys);
      mean.y = y.mean;
      curve.points.push_back(mean);
      if (y.spread.has_value()) curve.spread.push_back(*y.spread);
    }
    plot.curves.push_back(std::move(curve));
  }
  return CurvesSvg(plot);
}

std::string Results::LossOverBytes() const {
  CurvesPlot plot{.title = experiment_.name + ": loss by memory",
                  .x_name = "bytes of parameters",
                  .y_name = loss_name(),
                  .curves = {}};
  for (size_t v = 0; v < by_variant_.size(); ++v) {
    Curve curve{.name = experiment_.variants[v].name, .points = {}};
    if (by_variant_[v].size() > Diverged(v)) {
      const Mean loss = MeanOver(v, [this](const auto& r) { return LossOf(r); });
      curve.points = {{4.0 * static_cast<double>(FlopsOf(v).parameters), loss.mean}};
      if (loss.spread.has_value()) curve.spread = {*loss.spread};
    }
    plot.curves.push_back(std::move(curve));
  }
  return CurvesSvg(plot);
}

}  // namespace

Result<std::string> WriteResults(const Experiment& experiment, const std::vector<Trial>& trials,
                                 const std::string& out) {
  const Results results(experiment, trials);
  MF_RETURN_IF_ERROR(PublishFile(out + "/results.json", results.Json()));
  for (const char* what : {"tokens", "seconds", "flops"}) {
    MF_RETURN_IF_ERROR(PublishFile(out + "/loss-by-" + what + ".svg", results.CurvesOver(what)));
  }
  MF_RETURN_IF_ERROR(PublishFile(out + "/loss-by-bytes.svg", results.LossOverBytes()));
  MF_RETURN_IF_ERROR(PublishFile(out + "/results.md", results.Page()));
  return results.Table();
}

}  // namespace mf
