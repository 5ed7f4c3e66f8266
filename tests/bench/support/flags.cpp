#include "tests/bench/support/flags.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <type_traits>

namespace mf {
namespace {

/// False if `text` is not a value of that type.
bool Read(const std::string& text, const Flag& flag) {
  return std::visit(
      [&](auto* value) {
        using T = std::remove_pointer_t<decltype(value)>;
        if constexpr (std::is_same_v<T, std::string>) {
          *value = text;
          return true;
        } else if constexpr (std::is_same_v<T, bool>) {
          *value = text == "1";
          return text == "0" || text == "1";
        } else {
          const char* const end = text.data() + text.size();
          const auto [stop, error] = std::from_chars(text.data(), end, *value);
          return error == std::errc() && stop == end;
        }
      },
      flag.value);
}

}  // namespace

void EndWithUsage(const std::string& usage) {
  std::fprintf(stderr, "usage: %s\n", usage.c_str());
  std::exit(2);
}

void ParseFlags(int argc, char** argv, const std::string& usage, const std::vector<Flag>& flags) {
  for (int i = 1; i < argc; i += 2) {
    const auto flag = std::find_if(flags.begin(), flags.end(),
                                   [&](const Flag& known) { return known.name == argv[i]; });
    if (flag == flags.end() || i + 1 == argc || !Read(argv[i + 1], *flag)) EndWithUsage(usage);
  }
}

}  // namespace mf
