// Subcommands of pserver: each in a file of its own, *_command.cpp.
#pragma once

#include "common/base/status.h"

namespace CLI {
class App;
}

namespace mf {

// `status` gets the outcome when the command was chosen.
void AddServeCommand(CLI::App& app, Status* status);
void AddKeygenCommand(CLI::App& app, Status* status);
void AddInspectCommand(CLI::App& app, Status* status);
void AddReshardCommand(CLI::App& app, Status* status);
void AddRunsCommand(CLI::App& app, Status* status);

}  // namespace mf
