// How a program ends when something happens that no Status tells: memory that is not there, a
// library's exception in any thread, a mapped file that was cut, output that could not be written.
// One line on stderr and exit code 1 instead of an abort, a signal or silence. Failed checks
// (MF_CHECK) are bugs of ours and still abort.
//
// Standard output and standard error may be closed, full, or a pipe that nobody reads any more:
// - A stream that is closed is not taken by the next file that is opened, into which messages would
//   then be written.
// - SIGPIPE ends nothing: whoever trains or serves goes on without its listeners.
// - What was said on standard output is not lost in silence: exit code 1 and a line, but where the
//   reader of a pipe has gone, as `head` does, that of a program that SIGPIPE ended (141) and none.
#pragma once

#include <cstddef>
#include <functional>

#include "common/base/status.h"

namespace mf {

/// Runs a program and returns its exit code: what `body` returns, or 1 after a line about what it
/// threw. Before that it arranges, for all threads, that an exception nobody catches is such a
/// line, too, and so is a SIGBUS in a mapped file, and sees to the standard streams. Called once,
/// by main.
int RunProgram(const std::function<int()>& body);

/// For commands that go on speaking: writes what was said on standard output so far, so that work
/// ends that nobody would learn of. kFailed if it cannot be written; if nobody reads it, ends the
/// process as SIGPIPE would.
Status FlushOutput();
/// For those whose work is worth more than what they say: kFailed, too, if nobody reads it, and
/// after a failure nothing more is written to standard output.
Status FlushOutputOrDrop();

/// Memory that is a mapped file, so that a SIGBUS in it can name the file. `path` stays where it is
/// until ForgetMapping(). Beyond 64 mappings at once, and outside of RunProgram(), without effect.
void NameMapping(const void* begin, size_t bytes, const char* path);
void ForgetMapping(const void* begin);

}  // namespace mf
