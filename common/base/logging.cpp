#include "common/base/logging.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>

namespace mf {
namespace {

/// The text of a log line, in the place of spdlog's own %v.
class OneLineText final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&,
              spdlog::memory_buf_t& line) override {
    const std::string text = OneLine({message.payload.data(), message.payload.size()});
    line.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<OneLineText>();
  }
};

std::atomic<bool> g_progress_open{false};

/// On a terminal a line of the log takes the place of the progress that stands there.
class ClearProgress final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg&, const std::tm&,
              spdlog::memory_buf_t& line) override {
    constexpr std::string_view kClear = "\r\x1b[K";
    if (g_progress_open.load() && isatty(STDERR_FILENO) == 1)
      line.append(kClear.data(), kClear.data() + kClear.size());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<ClearProgress>();
  }
};

}  // namespace

Status SetUpLogging(const std::string& level) {
  constexpr std::array<const char*, 6> kLevels = {"trace", "debug", "info", "warn", "error", "off"};
  if (std::find(kLevels.begin(), kLevels.end(), level) == kLevels.end()) {
    return Status::Invalid("--log: unknown level " + level +
                           "; allowed: trace, debug, info, warn, error, off");
  }
  auto logger =
      std::make_shared<spdlog::logger>("mf", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  auto pattern = std::make_unique<spdlog::pattern_formatter>();
  pattern->add_flag<OneLineText>('v').add_flag<ClearProgress>('P').set_pattern(
      "%P%Y-%m-%dT%H:%M:%S.%e %L %v");
  logger->set_formatter(std::move(pattern));
  logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::info);  // a killed process must not lose its last words
  spdlog::set_default_logger(std::move(logger));
  return Status::Ok();
}

void SetProgressOpen(bool open) { g_progress_open.store(open); }

std::string OneLine(std::string_view text) {
  std::string line(text);
  for (char& c : line) {
    if (c == '\n' || c == '\r' || c == '\t') c = ' ';
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return line;
}

void PrintError(std::string_view message) {
  std::fprintf(stderr, "error: %s\n", OneLine(message).c_str());
}

std::string FitTerminal(std::FILE* terminal, std::string line) {
  struct winsize size = {};
  if (ioctl(fileno(terminal), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return line;
  // A character in the last column makes some terminals begin another line.
  return line.substr(0, size.ws_col - 1u);
}

}  // namespace mf
