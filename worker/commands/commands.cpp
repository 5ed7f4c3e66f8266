#include "worker/commands/commands.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "common/base/machine_limits.h"

namespace mf {
namespace {

void PrintError(std::string message) {
  // Whatever a message quotes, it stays on one line.
  std::replace_if(
      message.begin(), message.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
  std::fprintf(stderr, "error: %s\n", message.c_str());
}

}  // namespace

int Report(const Status& status) {
  if (!status.ok()) PrintError(status.message());
  return status.exit_code();
}

int ReportUsage(const std::string& message) {
  PrintError(message + "; see --help");
  return 2;
}

void AddBackendOption(CLI::App& command, Backend* backend) {
  const auto take = [backend](const std::string& name) {
    *backend = name == "cpu" ? Backend::kCpu : name == "cuda" ? Backend::kCuda : Backend::kAuto;
  };
  command
      .add_option_function<std::string>(
          "--backend", take, "What computes; auto: a GPU if this build can use one and it is there")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->default_str("auto");
}

int ThreadsOrCores(int threads) {
  if (threads > 0) return threads;
  return CpuLimit();
}

}  // namespace mf
