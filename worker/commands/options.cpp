// worker options: every configuration key in one Markdown table; README.md holds the same.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "common/config.h"
#include "worker/commands/commands.h"

namespace mf {

void AddOptionsCommand(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand("options", "All configuration keys, as a Markdown table");
  command->callback([exit_code] {
    std::fputs(ConfigTableMarkdown().c_str(), stdout);
    *exit_code = 0;
  });
}

}  // namespace mf
