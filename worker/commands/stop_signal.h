// For commands that are ended in order: the first SIGINT, SIGTERM or SIGHUP is noted, another one
// ends the process at once.
#pragma once

namespace mf {

/// From now on; a signal that is ignored (under nohup) stays so.
void CatchStopSignals();
/// Whether one came.
bool StopSignalCame();
/// The exit code of a command that ended with `code`: that of the signal if it failed for it.
int ExitCodeAfterSignal(int code);

}  // namespace mf
