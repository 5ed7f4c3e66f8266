#include "worker/commands/commands.h"

#include <algorithm>
#include <cstdio>

#include "common/machine_limits.h"

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

int ThreadsOrCores(int threads) {
  if (threads > 0) return threads;
  return CpuLimit();
}

}  // namespace mf
