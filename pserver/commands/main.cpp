// pserver: a parameter server as a process.
#include <CLI/CLI.hpp>

#include "common/base/logging.h"
#include "common/base/machine_limits.h"
#include "common/base/run_program.h"
#include "common/commands/command_line.h"
#include "pserver/commands/commands.h"

namespace {

int Run(int argc, char** argv) {
  mf::PrepareProcess();
  CLI::App app("Holds the tables of MemoryFormer models and serves them to workers.", "pserver");
  app.require_subcommand(1);
  mf::Status status = mf::SetUpLogging("info");  // to stderr: stdout says where it listens
  mf::AddServeCommand(app, &status);
  mf::AddKeygenCommand(app, &status);
  mf::AddInspectCommand(app, &status);
  mf::AddReshardCommand(app, &status);
  mf::AddRunsCommand(app, &status);
  try {
    mf::ParseCommandLine(app, argc, argv);
  } catch (const CLI::ParseError& error) {
    return mf::ReportParseError(app, error);
  }
  return mf::Report(status);
}

}  // namespace

int main(int argc, char** argv) {
  return mf::RunProgram([&] { return Run(argc, argv); });
}
