#include "worker/commands/progress_line.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "common/base/logging.h"

namespace mf {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

ProgressLine::ProgressLine()
    : terminal_(isatty(STDERR_FILENO) != 0), begin_(Now()), shown_(begin_) {}

ProgressLine::~ProgressLine() {
  if (!open_) return;
  std::fputc('\n', stderr);
  SetProgressOpen(false);
}

void ProgressLine::Show(uint64_t done, uint64_t all,
                        const std::function<std::string(double seconds)>& rest) {
  const double now = Now();
  if (now - shown_ < (terminal_ ? 0.1 : 10)) return;
  shown_ = now;
  char part[16];
  std::snprintf(
      part, sizeof(part), "%5.1f%%  ",
      100.0 * static_cast<double>(done) / static_cast<double>(std::max<uint64_t>(all, 1)));
  const std::string line = part + rest(now - begin_);
  if (!terminal_) {
    std::fprintf(stderr, "%s\n", line.c_str());
    return;
  }
  std::fprintf(stderr, "\r%s\x1b[K", FitTerminal(stderr, line).c_str());
  SetProgressOpen(open_ = true);
}

}  // namespace mf
