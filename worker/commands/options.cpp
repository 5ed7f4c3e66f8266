// worker options: every configuration key, or every metric, in one Markdown table; docs/OPTIONS.md
// and docs/METRICS.md hold the same.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "common/metrics/metrics.h"
#include "worker/commands/commands.h"
#include "worker/config/config.h"

namespace mf {

void AddOptionsCommand(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand("options", "All configuration keys, as a Markdown table");
  auto metrics = std::make_shared<bool>(false);
  command->add_flag("--metrics", *metrics, "All metrics of both programs instead");
  command->callback([metrics, exit_code] {
    std::fputs((*metrics ? MetricsTableMarkdown() : ConfigTableMarkdown()).c_str(), stdout);
    *exit_code = 0;
  });
}

}  // namespace mf
