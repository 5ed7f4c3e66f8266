// pserver reshard --from DIR --to DIR --shards N [--step N]
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>

#include "common/base/logging.h"
#include "common/commands/number_option.h"
#include "pserver/commands/commands.h"
#include "pserver/offline/reshard.h"
#include "pserver/snapshot/snapshot_folders.h"

namespace mf {
namespace {

/// A bar on a terminal, a line at every tenth in a log; on stderr.
class Progress {
 public:
  void Show(uint64_t done, uint64_t all) {
    const uint64_t percent = all == 0 ? 100 : std::min<uint64_t>(100, done * 100 / all);
    if (percent == shown_) return;
    if (terminal_) {
      std::string bar(40, ' ');
      std::fill_n(bar.begin(), percent * 40 / 100, '#');
      const std::string line = "resharding: " + std::to_string(percent) + "% [" + bar + "]";
      std::fprintf(stderr, "\r%s\x1b[K", FitTerminal(stderr, line).c_str());
      if (percent == 100) std::fputc('\n', stderr);
    } else if (percent / 10 != shown_ / 10) {
      std::fprintf(stderr, "resharding: %d%%\n", static_cast<int>(percent));
    }
    shown_ = percent;
  }

 private:
  const bool terminal_ = isatty(STDERR_FILENO) != 0;
  uint64_t shown_ = 0;
};

/// `--from` and `--to` are --data folders: the run in the one becomes that run in the other.
Status Run(const ReshardOptions& flags) {
  Progress progress;
  MF_ASSIGN_OR_RETURN(const RunFolder run, TheRunIn(flags.from));
  ReshardOptions options = flags;
  options.from = run.path;
  options.to = flags.to + "/" + run.name;
  MF_ASSIGN_OR_RETURN(
      const ReshardReport report,
      Reshard(options, [&](uint64_t done, uint64_t all) { progress.Show(done, all); }));
  progress.Show(1, 1);
  std::printf("step %llu: %llu rows, %llu bytes, from %u to %u shards\n",
              static_cast<unsigned long long>(report.step),
              static_cast<unsigned long long>(report.rows),
              static_cast<unsigned long long>(report.bytes), report.from_shards, options.shards);
  return Status::Ok();
}

}  // namespace

void AddReshardCommand(CLI::App& app, Status* status) {
  auto options = std::make_shared<ReshardOptions>();
  CLI::App* command =
      app.add_subcommand("reshard", "Turn the snapshots of S servers into those of N");
  command->add_option("--from", options->from, "The --data folder of all S servers")->required();
  command->add_option("--to", options->to, "The --data folder of the N servers: empty")->required();
  AddNumber(*command, "--shards", &options->shards, 1, 4096, "N")->required();
  AddNumber(*command, "--step", &options->step, 0, 1'000'000'000,
            "0: the newest that all servers have");
  command->callback([options, status] { *status = Run(*options); });
}

}  // namespace mf
