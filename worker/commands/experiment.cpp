// worker experiment: trains the variants of a file with several seeds, and compares them.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "common/base/files.h"
#include "common/base/logging.h"
#include "common/base/machine_limits.h"
#include "common/commands/command_line.h"
#include "common/commands/number_option.h"
#include "worker/commands/commands.h"
#include "worker/commands/progress_line.h"
#include "worker/commands/stop_signal.h"
#include "worker/experiment/results.h"
#include "worker/train/output_folder.h"

namespace mf {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kBetweenLooks(2);

struct ExperimentFlags {
  std::string file;
  TrialOptions trials;
  int jobs = 0;
};

/// Until all trials are finished, or it is stopped.
Status RunAll(const Experiment& experiment, const TrialOptions& options,
              std::vector<Trial>* trials) {
  const auto steps = [&] {
    int64_t done = 0;
    for (const Trial& trial : *trials) {
      done +=
          trial.finished ? experiment.variants[trial.variant].resolved.train.steps : StepsOf(trial);
    }
    return done;
  };
  int64_t all = 0;
  for (const Trial& trial : *trials) {
    all += experiment.variants[trial.variant].resolved.train.steps;
  }
  const int64_t before = steps();
  ProgressLine progress;
  auto next_look = Clock::now();
  const auto show = [&] {
    if (Clock::now() < next_look) return;  // the files of long trials are large
    next_look = Clock::now() + kBetweenLooks;
    const auto finished = std::count_if(trials->begin(), trials->end(),
                                        [](const Trial& trial) { return trial.finished; });
    const int64_t done = steps();
    progress.Show(static_cast<uint64_t>(done), static_cast<uint64_t>(all), [&](double seconds) {
      std::string text = std::to_string(finished) + " of " + std::to_string(trials->size()) +
                         " trials, " + std::to_string(done) + " of " + std::to_string(all) +
                         " steps";
      if (done > before) {
        const double left =
            seconds * static_cast<double>(all - done) / static_cast<double>(done - before);
        text += ", " + std::to_string(static_cast<int64_t>(left / 60) + 1) + " min left";
      }
      return text;
    });
  };
  return RunTrials(options, trials,
                   {.changed =
                        [&](const Trial&) {
                          // What cannot be written now is written at the end, or told there.
                          const Status written =
                              WriteResults(experiment, *trials, options.out).status();
                          if (!written.ok()) spdlog::warn("{}", written.message());
                        },
                    .waiting = show,
                    .stopped = StopSignalCame});
}

Status RunExperiment(ExperimentFlags& flags) {
  MF_ASSIGN_OR_RETURN(const Experiment experiment, ReadExperiment(flags.file));
  TrialOptions& options = flags.trials;
  options.jobs = flags.jobs > 0 ? flags.jobs : std::max(1, CpuLimit() / options.threads);
  MF_ASSIGN_OR_RETURN(std::vector<Trial> trials, PlanTrials(experiment, options));
  if (const Status made = MakeFolder(options.out); !made.ok()) {
    return Status::Invalid("--out " + made.message());
  }
  MF_ASSIGN_OR_RETURN(const FileLock lock, LockOutputFolder(options.out, "worker experiment"));
  CatchStopSignals();
  const Status ran = RunAll(experiment, options, &trials);
  MF_ASSIGN_OR_RETURN(const std::string table, WriteResults(experiment, trials, options.out));
  MF_RETURN_IF_ERROR(ran);
  MF_RETURN_IF_ERROR(CheckSameData(trials));
  std::printf("%s\n%s/results.md has the curves, results.json every number\n", table.c_str(),
              options.out.c_str());
  return Status::Ok();
}

}  // namespace

void AddExperimentCommand(CLI::App& app, int* exit_code) {
  auto flags = std::make_shared<ExperimentFlags>();
  CLI::App* command = app.add_subcommand(
      "experiment", "Train variants of a configuration with several seeds, and compare them");
  command->add_option("FILE", flags->file, "What is compared: deploy/experiments")->required();
  command->add_option("--out", flags->trials.out, "Folder for trials and results")->required();
  command->add_option("--data", flags->trials.data, "Instead of the file's");
  command->add_option("--val", flags->trials.validation, "Held-out data, instead of the file's");
  AddNumber(*command, "--threads", &flags->trials.threads, 1, kThreadsMax, "Of each trial")
      ->capture_default_str();
  AddNumber(*command, "--jobs", &flags->jobs, 0, kThreadsMax,
            "Trials at once; 0: as many as the cores can carry");
  command->callback(
      [flags, exit_code] { *exit_code = ExitCodeAfterSignal(Report(RunExperiment(*flags))); });
}

}  // namespace mf
