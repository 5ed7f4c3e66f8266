// What people read on stderr: log lines in one pattern for every program, the one line of an error
// that ends it, and progress on a terminal. Whatever they quote, such as a file's name, a line
// stays one line.
#pragma once

#include <spdlog/spdlog.h>

#include <cstdio>
#include <string>
#include <string_view>

#include "common/base/status.h"

namespace mf {

/// `level` is trace, debug, info, warn, error or off. Called once by main, before other threads
/// start.
Status SetUpLogging(const std::string& level);

/// The text with a space for each line break and tab, and ? for other control characters.
std::string OneLine(std::string_view text);

/// "error: MESSAGE" on stderr. Not a log line: what ends a program stands alone.
void PrintError(std::string_view message);

/// A line of progress stands on the terminal, without its end: lines of the log take its place.
void SetProgressOpen(bool open);

/// What there is room for of `line` where `terminal` shows it without beginning another line, of
/// which a carriage return would only overwrite the last. Where it is no terminal, or one that does
/// not say its width: all.
std::string FitTerminal(std::FILE* terminal, std::string line);

}  // namespace mf
