// How deep a TOML file is nested, before it is parsed: toml++ takes some frames of the stack for
// each part of a dotted key and does not count them, so that one line could end the program.
#pragma once

#include <cstdint>
#include <string_view>

namespace mf {

/// The first line, from 1 on, that has more dots or open brackets outside of strings and comments
/// than a configuration can need; 0: none. What is no TOML is the parser's to refuse.
int64_t LineOfDeepNesting(std::string_view toml);

}  // namespace mf
