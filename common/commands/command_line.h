// What holds for every flag of every command of both programs, said once: CLI11 knows no such
// rules.
#pragma once

#include <string>
#include <vector>

#include "common/base/status.h"

namespace CLI {
class App;
class Option;
class ParseError;
}  // namespace CLI

namespace mf {

/// app.parse(), once all commands are added, with these rules and --version:
/// - A value that is empty, or that is itself a flag of the command, is an error that names the
///   flag: an unset variable of a shell leaves such. `may_be_empty`: flags whose value is a text.
/// - Of a flag with one value that is given twice the last one counts.
/// - What follows a flag with a value and begins with one dash is its value: the name of a file.
/// Throws what app.parse() throws.
void ParseCommandLine(CLI::App& app, int argc, char** argv,
                      const std::vector<std::string>& may_be_empty = {});

/// Says what ParseCommandLine() has thrown, on one line of stderr or, for --help and --version, on
/// stdout. The exit code.
int ReportParseError(const CLI::App& app, const CLI::ParseError& error);
/// Says what went wrong, one line on stderr. The exit code: 0, 1 or 2.
int Report(const Status& status);

/// --pservers LIST of `command`: all servers in shard order, by ParseServers(). `servers` outlives
/// the parse.
CLI::Option* AddServersOption(CLI::App& command, std::vector<std::string>* servers,
                              const std::string& meaning);

}  // namespace mf
