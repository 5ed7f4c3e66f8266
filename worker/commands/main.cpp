// worker: train a model over parameter servers, and use what was trained.
#include <CLI/CLI.hpp>
#include <string>

#include "common/base/logging.h"
#include "common/base/machine_limits.h"
#include "common/base/run_program.h"
#include "common/commands/command_line.h"
#include "worker/commands/commands.h"

namespace {

int Run(int argc, char** argv) {
  mf::PrepareProcess();
  CLI::App app("Trains and uses MemoryFormer models over parameter servers.", "worker");
  std::string level = "info";
  app.add_option("--log", level, "Log level: trace, debug, info, warn, error, off")
      ->capture_default_str();
  app.require_subcommand(1);
  app.fallthrough();  // flags of the program may follow those of the command
  int exit_code = 0;
  // Runs after everything is parsed and before the command does.
  app.parse_complete_callback([&level] {
    if (const mf::Status status = mf::SetUpLogging(level); !status.ok()) {
      throw CLI::ValidationError(status.message());
    }
  });
  mf::AddTokenizerCommand(app, &exit_code);
  mf::AddPrepareCommand(app, &exit_code);
  mf::AddTrainCommand(app, &exit_code);
  mf::AddExperimentCommand(app, &exit_code);
  mf::AddExportCommand(app, &exit_code);
  mf::AddEvalCommand(app, &exit_code);
  mf::AddScoreCommand(app, &exit_code);
  mf::AddTasksCommand(app, &exit_code);
  mf::AddGenerateCommand(app, &exit_code);
  mf::AddFlopsCommand(app, &exit_code);
  mf::AddBucketsCommand(app, &exit_code);
  mf::AddStopCommand(app, &exit_code);
  mf::AddOptionsCommand(app, &exit_code);
  try {
    mf::ParseCommandLine(app, argc, argv, {"--prompt"});
  } catch (const CLI::ParseError& error) {
    return mf::ReportParseError(app, error);
  }
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  return mf::RunProgram([&] { return Run(argc, argv); });
}
