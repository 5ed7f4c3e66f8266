// The subcommands of `worker`. Each function adds one to `app`; when the command line names it, it
// runs during CLI11's parse and leaves its exit code in *exit_code.
#pragma once

#include <string>

#include "common/base/status.h"
#include "worker/compute/compute.h"

namespace CLI {
class App;
}

namespace mf {

void AddTrainCommand(CLI::App& app, int* exit_code);
void AddExportCommand(CLI::App& app, int* exit_code);
void AddEvalCommand(CLI::App& app, int* exit_code);
void AddScoreCommand(CLI::App& app, int* exit_code);
void AddGenerateCommand(CLI::App& app, int* exit_code);
void AddFlopsCommand(CLI::App& app, int* exit_code);
void AddBucketsCommand(CLI::App& app, int* exit_code);
void AddOptionsCommand(CLI::App& app, int* exit_code);

/// Says what went wrong, one line on stderr, and returns the exit code: 0, 1 or 2.
int Report(const Status& status);
/// The same for an error in the command line: 2.
int ReportUsage(const std::string& message);

/// --backend auto|cpu|cuda of `command`, kAuto unless it is given. `backend` outlives the parse.
void AddBackendOption(CLI::App& command, Backend* backend);

/// --threads N as a number of threads: 0 is one per core.
int ThreadsOrCores(int threads);

}  // namespace mf
