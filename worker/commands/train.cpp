// worker train: trains a model over parameter servers, embedded or elsewhere.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/commands/command_line.h"
#include "common/commands/number_option.h"
#include "worker/commands/commands.h"
#include "worker/train/train_run.h"

namespace mf {
namespace {

struct TrainFlags {
  std::string config, repeat, data, validation, out, export_path, metrics, keys, rows = "all";
  InitialModel::Options init;
  Backend backend = Backend::kAuto;
  std::vector<std::string> overrides, pservers;
  int64_t steps = 0;
  std::optional<uint64_t> seed;
  int shards = 1, threads = 0, server_threads = 0;
  uint64_t memory = 0;
  double grace_seconds = 45;
  bool fresh = false, no_lock = false;
};

volatile std::sig_atomic_t g_signal = 0;  // the first that came

/// The first signal ends the run cleanly, the second one at once.
void OnSignal(int signal) {
  if (StopRequested()) _exit(128 + signal);
  g_signal = signal;
  RequestStop();
}

/// The file of --config, or of --repeat, with what the command line says otherwise.
Status SetWhatToTrain(const TrainFlags& flags, TrainOptions* options) {
  std::vector<std::string> overrides = flags.overrides;
  if (flags.steps > 0) overrides.push_back("train.steps=" + std::to_string(flags.steps));
  if (flags.seed.has_value()) {
    overrides.push_back("model.seed=" + std::to_string(*flags.seed));
    overrides.push_back("train.seed=" + std::to_string(*flags.seed));
  }
  options->data = flags.data;
  options->validation = flags.validation;
  options->out = flags.out;
  options->init = flags.init;
  if (flags.repeat.empty()) {
    MF_ASSIGN_OR_RETURN(options->config, LoadConfig(flags.config, overrides));
    return Status::Ok();
  }
  MF_ASSIGN_OR_RETURN(RunFile run, ReadRunFile(flags.repeat));
  const Repetition& repeat = options->repeat.emplace(Repetition{flags.repeat, std::move(run)});
  MF_ASSIGN_OR_RETURN(options->config, ConfigToRepeat(repeat, overrides));
  MF_ASSIGN_OR_RETURN(options->out, OutputOfRepetition(repeat, flags.out));
  if (flags.data.empty()) options->data = repeat.run.data;
  if (flags.validation.empty()) options->validation = repeat.run.validation;
  if (flags.init.path.empty()) {
    options->init = {repeat.run.init, repeat.run.init_step, repeat.run.keep_optimizer};
  }
  return Status::Ok();
}

/// What CLI11 knows of flags that only --repeat makes superfluous.
Status CheckRequired(const TrainFlags& flags) {
  if (!flags.repeat.empty()) return Status::Ok();
  for (const auto& [name, value] :
       {std::pair{"--config", &flags.config}, {"--data", &flags.data}, {"--out", &flags.out}}) {
    if (value->empty()) return Status::Invalid(std::string(name) + " is required; see --help");
  }
  return Status::Ok();
}

/// `stopped`: before the last step.
Status Run(const TrainFlags& flags, bool* stopped) {
  MF_RETURN_IF_ERROR(CheckRequired(flags));
  TrainOptions options;
  MF_RETURN_IF_ERROR(SetWhatToTrain(flags, &options));
  options.pservers = flags.pservers;
  options.keys = flags.keys;
  options.shards = flags.shards;
  options.threads = ThreadsOrCores(flags.threads);
  options.backend = flags.backend;
  // The cores are shared between the servers that are asked at once.
  options.server_threads = flags.server_threads > 0
                               ? flags.server_threads
                               : std::max(1, ThreadsOrCores(0) / std::max(1, flags.shards));
  options.memory_bytes = flags.memory;
  options.fresh = flags.fresh;
  options.grace_seconds = flags.grace_seconds;
  options.no_lock = flags.no_lock;
  options.export_path = flags.export_path;
  options.export_rows = flags.rows == "touched" ? ExportRows::kTouched : ExportRows::kAll;
  options.metrics_address = flags.metrics;
  options.progress = stderr;
  options.on_begin = [] {
    std::signal(SIGINT, OnSignal);
    std::signal(SIGTERM, OnSignal);
    // A closed terminal; under nohup nobody minds it.
    if (std::signal(SIGHUP, OnSignal) == SIG_IGN) std::signal(SIGHUP, SIG_IGN);
  };
  for (const auto& [file, flag] : {std::pair(flags.config, "--config"),
                                   {options.init.path, "--init"},
                                   {options.init.path + "/model.safetensors", "--init"}}) {
    std::error_code error;
    if (std::filesystem::equivalent(file, flags.export_path, error)) {
      return Status::Invalid("--export " + flags.export_path + ": is the " + flag +
                             "; name another file");
    }
  }
  TrainSummary summary;
  MF_RETURN_IF_ERROR(Train(options, &summary));
  *stopped = summary.stopped;
  return Status::Ok();
}

/// A run that a signal has stopped is not one that has ended: a shell hears of it.
int RunAndReport(const TrainFlags& flags) {
  bool stopped = false;
  const int exit_code = Report(Run(flags, &stopped));
  return exit_code == 0 && stopped && g_signal != 0 ? 128 + g_signal : exit_code;
}

}  // namespace

void AddTrainCommand(CLI::App& app, int* exit_code) {
  auto flags = std::make_shared<TrainFlags>();
  CLI::App* command = app.add_subcommand("train", "Train a model");
  CLI::Option* config =
      command->add_option("--config", flags->config, "TOML file (deploy/configs); required");
  command
      ->add_option("--repeat", flags->repeat,
                   "Instead of --config: do the run of OUT/run.json once more")
      ->excludes(config);
  command->add_option("--data", flags->data,
                      "Text file, directory or .bin tokens; required, but for --repeat");
  command->add_option("--val", flags->validation, "Held-out data; default: the end of --data");
  CLI::Option* init = command->add_option(
      "--init", flags->init.path,
      "Begin with a trained model: FILE.safetensors, or the folder of a run's snapshots");
  AddNumber(*command, "--init-step", &flags->init.step, 0, uint64_t{1'000'000'000},
            "Of the snapshots; 0: the newest that all servers have")
      ->needs(init);
  command
      ->add_flag("--keep-optimizer", flags->init.keep_optimizer,
                 "With snapshots: go on with their optimizer, schedule and order of the data")
      ->needs(init);
  command->add_option(
      "--out", flags->out,
      "Folder for metrics.jsonl and loss.svg; required, but for --repeat OUT/run.json: OUT/repeat");
  CLI::Option* pservers =
      AddServersOption(*command, &flags->pservers,
                       "of all servers in shard order; default: servers inside the process");
  command->add_option("--keys", flags->keys, "Folder with client.key and server.pub")
      ->needs(pservers);
  AddNumber(*command, "--shards", &flags->shards, 1, 4096, "Embedded servers")
      ->capture_default_str()
      ->excludes(pservers);
  AddNumber(*command, "--steps", &flags->steps, 1, 1'000'000'000, "Instead of train.steps");
  AddNumber(*command, "--seed", &flags->seed, 0, uint64_t{1} << 53,
            "Instead of model.seed and train.seed");
  AddNumber(*command, "--threads", &flags->threads, 0, kThreadsMax,
            "Of the worker; 0: one per core");
  AddBackendOption(*command, &flags->backend);
  AddNumber(*command, "--server-threads", &flags->server_threads, 0, kThreadsMax,
            "Of each embedded server; 0: the cores shared between them");
  AddNumber(*command, "--memory", &flags->memory, 0, kBytesMax,
            "Bytes for tables addressed directly; 0: 70% of the machine's or container's");
  command->add_option("--metrics", flags->metrics, "Serve /metrics on HOST:PORT");
  command->add_flag("--no-lock", flags->no_lock,
                    "Embedded servers: on a file system without locks; nobody else uses --out");
  command->add_flag("--fresh", flags->fresh, "Refuse an --out that holds a run");
  command->add_option("--export", flags->export_path, "Write the trained model: FILE.safetensors");
  command->add_option("--rows", flags->rows, "What to export of the tables")
      ->check(CLI::IsMember({"all", "touched"}))
      ->capture_default_str();
  command->add_option("--set", flags->overrides, "section.key=value, instead of the file's")
      ->allow_extra_args(false);
  AddNumber(*command, "--grace-seconds", &flags->grace_seconds, 0, kSecondsMax,
            "At most so long after SIGTERM or SIGINT the last finished step is being saved")
      ->capture_default_str();
  command->callback([flags, exit_code] { *exit_code = RunAndReport(*flags); });
}

}  // namespace mf
