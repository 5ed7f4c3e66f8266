// The subcommands of `worker`. Each function adds one to `app`; when the command line names it, it
// runs during CLI11's parse and leaves its exit code in *exit_code.
#pragma once

#include <memory>
#include <string>

#include "common/base/status.h"
#include "common/base/thread_pool.h"
#include "common/commands/command_line.h"
#include "worker/compute/compute.h"
#include "worker/config/config.h"
#include "worker/export/trained_model.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace mf {

void AddTokenizerCommand(CLI::App& app, int* exit_code);
void AddPrepareCommand(CLI::App& app, int* exit_code);
void AddTrainCommand(CLI::App& app, int* exit_code);
void AddExperimentCommand(CLI::App& app, int* exit_code);
void AddExportCommand(CLI::App& app, int* exit_code);
void AddEvalCommand(CLI::App& app, int* exit_code);
void AddScoreCommand(CLI::App& app, int* exit_code);
void AddTasksCommand(CLI::App& app, int* exit_code);
void AddGenerateCommand(CLI::App& app, int* exit_code);
void AddFlopsCommand(CLI::App& app, int* exit_code);
void AddBucketsCommand(CLI::App& app, int* exit_code);
void AddStopCommand(CLI::App& app, int* exit_code);
void AddOptionsCommand(CLI::App& app, int* exit_code);

/// --backend auto|cpu|cuda of `command`, kAuto unless it is given. `backend` outlives the parse.
void AddBackendOption(CLI::App& command, Backend* backend);

/// --model PATH and --config FILE, or --pservers LIST and --keys FOLDER, of `command`. `place`
/// outlives the parse.
void AddModelOptions(CLI::App& command, ModelPlace* place);
/// --pservers and --keys alone, instead of `path`, the flag for ModelPlace::path.
void AddModelServersOptions(CLI::App& command, CLI::Option* path, ModelPlace* place);
/// --binary and --ids of `command`: as data.binary and data.ids. `data` outlives the parse.
void AddDataOptions(CLI::App& command, DataConfig* data);

/// --stride N of `command`, as Scorer::Windows::stride. `stride` outlives the parse.
void AddStrideOption(CLI::App& command, int64_t* stride);

/// --threads N as a number of threads: 0 is one per core.
int ThreadsOrCores(int threads);
/// So many threads for a command. kFailed where the system has no more.
Result<std::unique_ptr<ThreadPool>> MakePool(int threads);

}  // namespace mf
