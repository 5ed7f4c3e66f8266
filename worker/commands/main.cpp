// worker: train a model over parameter servers, and use what was trained.
#include <CLI/CLI.hpp>
#include <string>

#include "common/base/logging.h"
#include "worker/commands/commands.h"

int main(int argc, char** argv) {
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
  mf::AddTrainCommand(app, &exit_code);
  mf::AddExportCommand(app, &exit_code);
  mf::AddEvalCommand(app, &exit_code);
  mf::AddScoreCommand(app, &exit_code);
  mf::AddGenerateCommand(app, &exit_code);
  mf::AddFlopsCommand(app, &exit_code);
  mf::AddBucketsCommand(app, &exit_code);
  mf::AddOptionsCommand(app, &exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    // CLI11 would only say that a command is missing.
    if (app.get_subcommands().empty() && !app.remaining().empty()) {
      return mf::ReportUsage("unknown command or flag " + app.remaining().front());
    }
    return mf::ReportUsage(error.what());
  }
  return exit_code;
}
