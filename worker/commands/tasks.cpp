// worker tasks: zero-shot accuracy of a trained model on tasks of choice.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "common/commands/number_option.h"
#include "worker/commands/commands.h"
#include "worker/commands/json_line.h"
#include "worker/commands/progress_line.h"
#include "worker/tasks/task_scorer.h"

namespace mf {
namespace {

struct TasksFlags {
  ModelPlace model;
  std::vector<std::string> tasks;
  int64_t examples = 0;
  bool json = false, each = false;
  int threads = 0;
};

/// The part of examples that were right, and its standard error: that of a mean of n draws of 0 and
/// 1, sqrt(p (1 - p) / (n - 1)).
struct Accuracy {
  int64_t right = 0, examples = 0;

  void Add(bool is_right) {
    ++examples;
    right += is_right;
  }
  double value() const { return static_cast<double>(right) / static_cast<double>(examples); }
  double standard_error() const {
    if (examples < 2) return 0;
    return std::sqrt(value() * (1 - value()) / static_cast<double>(examples - 1));
  }
};

struct TaskResult {
  std::string task;
  Accuracy summed, per_character;
  double nll = 0;  // of the right choices
  int64_t tokens = 0;

  double perplexity() const { return std::exp(nll / static_cast<double>(summed.examples)); }
};

/// Of equal ones the first.
template <class Value>
size_t Best(const std::vector<ChoiceScore>& scores, Value value) {
  const auto best =
      std::max_element(scores.begin(), scores.end(),
                       [&](const auto& a, const auto& b) { return value(a) < value(b); });
  return static_cast<size_t>(best - scores.begin());
}

Status PrintExample(const std::string& task, const TaskExample& example,
                    const std::vector<ChoiceScore>& scores) {
  nlohmann::ordered_json line;
  line["task"] = task;
  line["line"] = example.line;
  line["answer"] = example.answer;
  for (const ChoiceScore& score : scores) {
    line["log_likelihoods"].push_back(score.log_likelihood);
    line["tokens"].push_back(score.tokens);
    line["characters"].push_back(score.characters);
  }
  if (scores.size() == 1) line["greedy"] = scores[0].greedy;
  return PrintJsonLine(line);
}

Result<TaskResult> DoTask(const std::string& path, const std::vector<TaskExample>& examples,
                          const TasksFlags& flags, TaskScorer& scorer) {
  TaskResult result;
  result.task = path;
  ProgressLine progress;
  const size_t most = flags.examples == 0 ? examples.size() : static_cast<size_t>(flags.examples);
  for (size_t i = 0; i < std::min(most, examples.size()); ++i) {
    const TaskExample& example = examples[i];
    Result<std::vector<ChoiceScore>> scored = scorer.Score(example);
    if (!scored.ok()) {
      return Status(scored.status().code(), path + ": line " + std::to_string(example.line) + ": " +
                                                scored.status().message());
    }
    const std::vector<ChoiceScore>& scores = scored.value();
    if (scores.size() == 1) {
      result.summed.Add(scores[0].greedy);
      result.per_character.Add(scores[0].greedy);
    } else {
      result.summed.Add(example.answer ==
                        Best(scores, [](const auto& score) { return score.log_likelihood; }));
      result.per_character.Add(
          example.answer == Best(scores, [](const auto& score) { return score.per_character(); }));
    }
    result.nll -= scores[example.answer].log_likelihood;
    result.tokens += scores[example.answer].tokens;
    if (flags.each) MF_RETURN_IF_ERROR(PrintExample(path, example, scores));
    progress.Show(i + 1, std::min(most, examples.size()), [&](double seconds) {
      char text[96];
      std::snprintf(text, sizeof(text), "  accuracy %.4f  %.1f examples/s", result.summed.value(),
                    static_cast<double>(i + 1) / seconds);
      return path + text;
    });
  }
  return result;
}

Status PrintJson(const TaskResult& result) {
  nlohmann::ordered_json line;
  line["task"] = result.task;
  line["examples"] = result.summed.examples;
  line["accuracy"] = result.summed.value();
  line["accuracy_stderr"] = result.summed.standard_error();
  line["accuracy_per_character"] = result.per_character.value();
  line["accuracy_per_character_stderr"] = result.per_character.standard_error();
  line["perplexity"] = result.perplexity();
  return PrintJsonLine(line);
}

void PrintTable(const std::vector<TaskResult>& results) {
  std::printf("%9s  %17s  %17s  %12s  %s\n", "examples", "accuracy", "per character", "perplexity",
              "task");
  for (const TaskResult& result : results) {
    std::printf("%9lld  %.4f +- %.4f  %.4f +- %.4f  %12.2f  %s\n",
                static_cast<long long>(result.summed.examples), result.summed.value(),
                result.summed.standard_error(), result.per_character.value(),
                result.per_character.standard_error(), result.perplexity(), result.task.c_str());
  }
}

Status Run(const TasksFlags& flags) {
  std::vector<std::vector<TaskExample>> tasks;
  for (const std::string& path : flags.tasks) {
    MF_ASSIGN_OR_RETURN(std::vector<TaskExample> examples, ReadTask(path));
    tasks.push_back(std::move(examples));
  }
  MF_ASSIGN_OR_RETURN(const auto pool, MakePool(flags.threads));
  MF_ASSIGN_OR_RETURN(const auto trained, TrainedModel::Open(flags.model, *pool));
  MF_ASSIGN_OR_RETURN(const auto tokenizer,
                      Tokenizer::Make(trained->config().tokenizer, flags.model.name()));
  TaskScorer scorer(*trained, *tokenizer, *pool);
  std::vector<TaskResult> results;
  for (size_t i = 0; i < tasks.size(); ++i) {
    MF_ASSIGN_OR_RETURN(TaskResult result, DoTask(flags.tasks[i], tasks[i], flags, scorer));
    if (flags.json) MF_RETURN_IF_ERROR(PrintJson(result));
    results.push_back(std::move(result));
  }
  if (!flags.json) PrintTable(results);
  return Status::Ok();
}

}  // namespace

void AddTasksCommand(CLI::App& app, int* exit_code) {
  auto flags = std::make_shared<TasksFlags>();
  CLI::App* command = app.add_subcommand("tasks", "Zero-shot accuracy on tasks of choice");
  AddModelOptions(*command, &flags->model);
  command
      ->add_option("--tasks", flags->tasks,
                   "Files of JSON lines {\"context\", \"choices\", \"answer\"}")
      ->required();
  AddNumber(*command, "--examples", &flags->examples, 0, 1'000'000'000,
            "Only the first ones of each; 0: all");
  command->add_flag("--json", flags->json, "A line of JSON for each task instead of the table");
  command->add_flag("--each", flags->each, "A line of JSON for each example, too");
  AddNumber(*command, "--threads", &flags->threads, 0, kThreadsMax, "0: one per core");
  command->callback([flags, exit_code] { *exit_code = Report(Run(*flags)); });
}

}  // namespace mf
