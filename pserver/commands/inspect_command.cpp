// pserver inspect DIR [--verify]
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <string>

#include "pserver/commands/commands.h"
#include "pserver/offline/inspect.h"

namespace mf {

void AddInspectCommand(CLI::App& app, Status* status) {
  struct Flags {
    std::string dir;
    bool verify = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("inspect", "Show the snapshots of a --data folder");
  command->add_option("dir", flags->dir, "The servers' --data, or one shard-<i>-of-<S> in it")
      ->required();
  command->add_flag("--verify", flags->verify, "Read everything back; exit 1 if a file is damaged");
  command->callback([flags, status] { *status = Inspect(flags->dir, flags->verify, std::cout); });
}

}  // namespace mf
