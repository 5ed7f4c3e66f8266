#include "worker/config/toml_depth.h"

#include <algorithm>
#include <cstddef>

namespace mf {
namespace {

// A configuration has one level of sections, and arrays of two numbers.
constexpr int kMostDots = 64;  // in a line, of keys and numbers
constexpr int kMostOpen = 16;

/// Behind the string that begins at `begin`, where a quote stands.
size_t EndOfString(std::string_view toml, size_t begin) {
  const char quote = toml[begin];
  const bool escapes = quote == '"';
  const std::string_view three = toml.substr(begin, 3);
  const bool long_one = three.size() == 3 && three[1] == quote && three[2] == quote;
  size_t at = begin + (long_one ? 3 : 1);
  for (; at < toml.size(); ++at) {
    if (escapes && toml[at] == '\\') {
      ++at;
    } else if (!long_one && (toml[at] == quote || toml[at] == '\n')) {
      return toml[at] == quote ? at + 1 : at;
    } else if (long_one && toml.substr(at, 3) == three) {
      // Up to two quotes before the closing ones are of the text.
      at = toml.find_first_not_of(quote, at);
      break;
    }
  }
  return std::min(at, toml.size());
}

}  // namespace

int64_t LineOfDeepNesting(std::string_view toml) {
  int64_t line = 1;
  int dots = 0, open = 0;
  for (size_t at = 0; at < toml.size();) {
    const char c = toml[at];
    if (c == '"' || c == '\'') {
      const size_t end = EndOfString(toml, at);
      line += std::count(toml.begin() + static_cast<ptrdiff_t>(at),
                         toml.begin() + static_cast<ptrdiff_t>(end), '\n');
      at = end;
      continue;
    }
    if (c == '#') {
      at = std::min(toml.find('\n', at), toml.size());
      continue;
    }
    if (c == '\n') {
      ++line;
      dots = 0;
    } else if (c == '.') {
      ++dots;
    } else if (c == '[' || c == '{') {
      ++open;
    } else if (c == ']' || c == '}') {
      open = std::max(0, open - 1);
    }
    if (dots > kMostDots || open > kMostOpen) return line;
    ++at;
  }
  return 0;
}

}  // namespace mf
