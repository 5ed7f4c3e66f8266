// worker train: trains a model over parameter servers, embedded or elsewhere.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "worker/commands/commands.h"
#include "worker/train/train_run.h"

namespace mf {
namespace {

struct TrainFlags {
  std::string config, data, validation, out, export_path, metrics, keys, rows = "all";
  Backend backend = Backend::kAuto;
  std::vector<std::string> overrides, pservers;
  int64_t steps = 0;
  std::string seed;
  int shards = 1, threads = 0, server_threads = 0;
  uint64_t memory = 0;
  bool fresh = false;
};

/// The first signal ends the run cleanly, the second one at once.
void OnSignal(int signal) {
  if (StopRequested()) _exit(128 + signal);
  RequestStop();
}

Status Run(const TrainFlags& flags) {
  std::vector<std::string> overrides = flags.overrides;
  if (flags.steps > 0) overrides.push_back("train.steps=" + std::to_string(flags.steps));
  if (!flags.seed.empty()) {
    overrides.push_back("model.seed=" + flags.seed);
    overrides.push_back("train.seed=" + flags.seed);
  }
  MF_ASSIGN_OR_RETURN(const Config config, LoadConfig(flags.config, overrides));
  TrainOptions options;
  options.config = config;
  options.data = flags.data;
  options.validation = flags.validation;
  options.out = flags.out;
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
  options.export_path = flags.export_path;
  options.export_rows = flags.rows == "touched" ? ExportRows::kTouched : ExportRows::kAll;
  options.metrics_address = flags.metrics;
  options.progress = stderr;
  std::signal(SIGINT, OnSignal);
  std::signal(SIGTERM, OnSignal);
  return Train(options);
}

}  // namespace

void AddTrainCommand(CLI::App& app, int* exit_code) {
  auto flags = std::make_shared<TrainFlags>();
  CLI::App* command = app.add_subcommand("train", "Train a model");
  command->add_option("--config", flags->config, "TOML file (deploy/configs)")->required();
  command->add_option("--data", flags->data, "Text file, directory or .bin tokens")->required();
  command->add_option("--val", flags->validation, "Held-out data; default: the end of --data");
  command->add_option("--out", flags->out, "Folder for metrics.jsonl and loss.svg")->required();
  CLI::Option* pservers =
      command
          ->add_option("--pservers", flags->pservers,
                       "tcp://HOST:PORT,... of all servers in shard order; default: servers inside "
                       "the process")
          ->delimiter(',')
          ->allow_extra_args(false);
  command->add_option("--keys", flags->keys, "Folder with client.key and server.pub")
      ->needs(pservers);
  command->add_option("--shards", flags->shards, "Embedded servers")
      ->capture_default_str()
      ->excludes(pservers);
  command->add_option("--steps", flags->steps, "Instead of train.steps")
      ->check(CLI::PositiveNumber);
  command->add_option("--seed", flags->seed, "Instead of model.seed and train.seed");
  command->add_option("--threads", flags->threads, "Of the worker; 0: one per core")
      ->check(CLI::Range(0, 1024));
  AddBackendOption(*command, &flags->backend);
  command
      ->add_option("--server-threads", flags->server_threads,
                   "Of each embedded server; 0: the cores shared between them")
      ->check(CLI::Range(0, 1024));
  command->add_option(
      "--memory", flags->memory,
      "Bytes for tables addressed directly; 0: 70% of the machine's or container's");
  command->add_option("--metrics", flags->metrics, "Serve /metrics on HOST:PORT");
  command->add_flag("--fresh", flags->fresh, "Refuse an --out that holds a run");
  command->add_option("--export", flags->export_path, "Write the trained model: FILE.safetensors");
  command->add_option("--rows", flags->rows, "What to export of the tables")
      ->check(CLI::IsMember({"all", "touched"}))
      ->capture_default_str();
  command->add_option("--set", flags->overrides, "section.key=value, instead of the file's")
      ->allow_extra_args(false);
  command->callback([flags, exit_code] { *exit_code = Report(Run(*flags)); });
}

}  // namespace mf
