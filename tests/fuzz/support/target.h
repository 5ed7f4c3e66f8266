// What every fuzz target has in common. A target is one function on production code: libFuzzer
// calls it with inputs that it makes (preset `fuzz`), replay.cpp with those that are kept (any
// other preset). What must hold is an MF_CHECK: a crash is a finding, and so is a sanitizer's
// report.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/check.h"
#include "common/base/logging.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace mf::fuzz {

/// Inputs are wrong on purpose: what the program logs of them would only cost time.
inline const bool kQuiet = [] {
  spdlog::set_level(spdlog::level::off);
  return true;
}();

inline std::string_view TextOf(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// The texts between NUL bytes: at most `most`, the last one with all that is left, and empty ones
/// where the input has fewer.
inline std::vector<std::string> Parts(std::string_view text, size_t most) {
  std::vector<std::string> parts;
  while (parts.size() + 1 < most) {
    const size_t end = text.find('\0');
    parts.emplace_back(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  parts.emplace_back(text);
  return parts;
}

}  // namespace mf::fuzz
