#include "worker/commands/stop_signal.h"

#include <csignal>

namespace mf {
namespace {

volatile std::sig_atomic_t g_signal = 0;

void OnSignal(int signal) {
  g_signal = signal;
  std::signal(signal, SIG_DFL);
}

}  // namespace

void CatchStopSignals() {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    if (std::signal(signal, OnSignal) == SIG_IGN) std::signal(signal, SIG_IGN);
  }
}

bool StopSignalCame() { return g_signal != 0; }

int ExitCodeAfterSignal(int code) { return code != 0 && g_signal != 0 ? 128 + g_signal : code; }

}  // namespace mf
