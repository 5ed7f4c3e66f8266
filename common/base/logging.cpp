#include "common/base/logging.h"

#include <spdlog/sinks/stdout_sinks.h>

#include <algorithm>
#include <array>

namespace mf {

Status SetUpLogging(const std::string& level) {
  constexpr std::array<const char*, 6> kLevels = {"trace", "debug", "info", "warn", "error", "off"};
  if (std::find(kLevels.begin(), kLevels.end(), level) == kLevels.end()) {
    return Status::Invalid("--log: unknown level " + level +
                           "; allowed: trace, debug, info, warn, error, off");
  }
  auto logger =
      std::make_shared<spdlog::logger>("mf", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %L %v");
  logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::info);  // a killed process must not lose its last words
  spdlog::set_default_logger(std::move(logger));
  return Status::Ok();
}

}  // namespace mf
