// The command line of a benchmark: "--flag value" pairs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace mf {

struct Flag {
  std::string name;  // with its dashes
  std::variant<int*, unsigned*, int64_t*, uint64_t*, bool*, std::string*> value;
};

/// Writes what the command line says to the flags' values. Ends the program with `usage` on stderr
/// and exit code 2 at a flag that is not in the list, a flag without a value or a value that is not
/// a whole number where one is wanted (bool: 0 or 1).
void ParseFlags(int argc, char** argv, const std::string& usage, const std::vector<Flag>& flags);
/// The same end for values that cannot be.
[[noreturn]] void EndWithUsage(const std::string& usage);

}  // namespace mf
