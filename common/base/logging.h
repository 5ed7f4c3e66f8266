// Log lines on stderr, one pattern for every program. Errors that end a program are not log lines:
// main prints them alone.
#pragma once

#include <spdlog/spdlog.h>

#include <string>

#include "common/base/status.h"

namespace mf {

/// `level` is trace, debug, info, warn, error or off. Called once by main, before other threads
/// start.
Status SetUpLogging(const std::string& level);

}  // namespace mf
