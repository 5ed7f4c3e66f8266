#include "worker/train/report.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "common/base/files.h"
#include "common/base/logging.h"
#include "worker/train/plot.h"

namespace mf {
namespace {

constexpr size_t kKeptBytesMax = 64 << 20;  // lines of about 400,000 steps
constexpr uint64_t kStepsAtOnceMax = 1000;  // more are of a time when the worker was not there

std::string Number(double value) {
  if (!std::isfinite(value)) return "null";
  char text[32];
  return std::string(text, std::to_chars(text, text + sizeof(text), value).ptr);
}

/// 12345678 -> "12,345,678"
std::string Grouped(double value) {
  const std::string digits = std::to_string(std::llround(value));
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    const bool inside = i > 0 && digits[i - 1] != '-';
    if (inside && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

std::string Duration(double seconds) {
  const auto s = static_cast<int64_t>(std::llround(seconds));
  const auto two = [](int64_t n) {
    return std::string(1, static_cast<char>('0' + n / 10)) + static_cast<char>('0' + n % 10);
  };
  if (s < 60) return std::to_string(s) + "s";
  if (s < 3600) return std::to_string(s / 60) + "m" + two(s % 60) + "s";
  return std::to_string(s / 3600) + "h" + two(s % 3600 / 60) + "m";
}

std::string Fixed(double value, int digits) {
  char text[48];
  std::snprintf(text, sizeof(text), "%.*f", digits, value);
  return text;
}

Status CanNotWrite(const std::string& path) {
  return Status::Invalid(path + ": cannot write here: " + std::strerror(errno) +
                         "; give another --out");
}

double NumberOf(const nlohmann::json& line, const char* key) {
  const auto found = line.find(key);
  return found != line.end() && found->is_number() ? found->get<double>() : std::nan("");
}

/// True if the file's last line was cut, by a process that was killed while it wrote.
bool EndsInsideALine(const std::string& path) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in || in.tellg() <= 0) return false;
  in.seekg(-1, std::ios::end);
  return in.get() != '\n';
}

/// Of what does not depend on when and where a step was done.
uint64_t HashOf(StepReport report) {
  report.tokens_per_second = 0;
  return std::hash<std::string>()(JsonLine(report));
}

}  // namespace

std::string JsonLine(const StepReport& report) {
  std::string line = "{\"step\":" + std::to_string(report.step) +
                     ",\"loss\":" + Number(report.loss) + ",\"lr\":" + Number(report.lr) +
                     ",\"grad_norm\":" + Number(report.grad_norm) +
                     ",\"tokens\":" + std::to_string(report.tokens) +
                     ",\"tokens_per_second\":" + Number(report.tokens_per_second);
  if (report.dropped) line += ",\"dropped\":true";
  if (report.val_loss.has_value()) line += ",\"val_loss\":" + Number(*report.val_loss);
  return line + "}";
}

namespace {

std::vector<StepReport> ReadLines(std::istream& in) {
  std::map<int64_t, StepReport> steps;
  for (std::string text; std::getline(in, text);) {
    const auto line = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!line.is_object() || !line.contains("step") || !line["step"].is_number_integer()) continue;
    StepReport report;
    report.step = line["step"].get<int64_t>();
    report.loss = NumberOf(line, "loss");
    report.lr = NumberOf(line, "lr");
    report.grad_norm = NumberOf(line, "grad_norm");
    const double tokens = NumberOf(line, "tokens");
    report.tokens = std::isfinite(tokens) ? static_cast<int64_t>(tokens) : 0;
    report.tokens_per_second = NumberOf(line, "tokens_per_second");
    report.dropped = line.contains("dropped");
    if (line.contains("val_loss")) report.val_loss = NumberOf(line, "val_loss");
    steps[report.step] = report;
  }
  std::vector<StepReport> reports;
  for (const auto& [step, report] : steps) reports.push_back(report);
  return reports;
}

}  // namespace

std::vector<StepReport> ReadMetrics(const std::string& path) {
  std::ifstream in(path);
  return ReadLines(in);
}

double StepClock::Told(uint64_t first, uint64_t steps, int64_t tokens_per_step, Time now) {
  const std::optional<Time> before = std::exchange(last_, now);
  // Of a worker that is there from the beginning the first step has no beginning, but is its own.
  const bool begins = first == 1 && steps == 1;
  there_ = steps > 0 && steps < kStepsAtOnceMax && (before.has_value() || begins);
  if (steps >= kStepsAtOnceMax) last_.reset();  // there may be more of them
  if (!there_ || !before.has_value()) return std::nan("");
  return static_cast<double>(tokens_per_step) * static_cast<double>(steps) /
         std::chrono::duration<double>(now - *before).count();
}

Result<std::unique_ptr<RunReport>> RunReport::Open(const Options& options) {
  if (const Status made = MakeFolder(options.out); !made.ok())
    return Status::Invalid(made.message() + ", or give another --out");
  const std::string path = options.out + "/metrics.jsonl";
  const bool cut = EndsInsideALine(path);
  std::unique_ptr<RunReport> report(new RunReport);
  for (const StepReport& line : ReadMetrics(path)) report->Known(line.step) = HashOf(line);
  report->options_ = options;
  report->file_ = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (report->file_ < 0) return CanNotWrite(path);
  if (cut) report->kept_ = "\n";
  report->terminal_ = options.progress != nullptr && isatty(fileno(options.progress)) != 0;
  return report;
}

RunReport::~RunReport() {
  if (bar_open_) std::fputc('\n', options_.progress);
  if (file_ >= 0) close(file_);
}

uint64_t& RunReport::Known(int64_t step) {
  const auto number = static_cast<uint64_t>(step);
  return known_[number / kBlock][number % kBlock];
}

void RunReport::Step(const StepReport& report) {
  uint64_t& known = Known(report.step);
  const uint64_t result = HashOf(report);
  if (known == result) return;
  const std::string line = JsonLine(report) + "\n";
  if (kept_.size() + line.size() > kKeptBytesMax) {
    ++lost_lines_;  // a worker that is started again is told of the step once more
  } else {
    kept_ += line;
    known = result;
  }
  WriteKept();
  if (report.val_loss.has_value()) last_val_loss_ = report.val_loss;
  if (options_.progress != nullptr) ShowProgress(report);
}

void RunReport::WriteKept() {
  const std::string path = options_.out + "/metrics.jsonl";
  struct stat before = {};
  const bool known_size = fstat(file_, &before) == 0;
  int error = 0;
  size_t taken = 0;
  while (taken < kept_.size() && error == 0) {
    const ssize_t written = write(file_, kept_.data() + taken, kept_.size() - taken);
    if (written > 0) {
      taken += static_cast<size_t>(written);
    } else if (written == 0 || errno != EINTR) {
      error = written == 0 ? ENOSPC : errno;
    }
  }
  // A disk that fills up takes what fits: no half line stays.
  const size_t whole = taken == 0 ? 0 : kept_.rfind('\n', taken - 1) + 1;  // 0: npos + 1
  if (whole < taken &&
      (!known_size || ftruncate(file_, before.st_size + static_cast<off_t>(whole)) != 0)) {
    kept_.insert(whole, "\n");  // what stays becomes a line that readers leave out
  }
  kept_.erase(0, whole);
  if (error != 0 && !full_) {
    full_ = true;
    spdlog::warn(
        "{}: cannot write it: {}; the run goes on, and its lines are written when it works "
        "again",
        path, std::strerror(error));
  } else if (error == 0 && full_) {
    full_ = false;
    spdlog::info("{}: writing works again; {}", path,
                 lost_lines_ == 0 ? "no line is lost"
                                  : std::to_string(lost_lines_) +
                                        " lines are lost, which were too many to keep");
    lost_lines_ = 0;
  }
}

void RunReport::ShowProgress(const StepReport& report) {
  // Ten redraws a second look alive; a log wants fewer lines.
  const auto pause = std::chrono::milliseconds(terminal_ ? 100 : 5000);
  const auto now = std::chrono::steady_clock::now();
  const bool worth_telling =
      report.step == options_.steps || report.val_loss.has_value() || report.dropped;
  if (!worth_telling && now - shown_ < pause) return;
  shown_ = now;
  std::string text = "step " + std::to_string(report.step) + "/" + std::to_string(options_.steps) +
                     "  loss " + Fixed(report.loss, 4);
  if (report.dropped) text += "  dropped: not finite";
  if (report.val_loss.has_value() || (terminal_ && last_val_loss_.has_value())) {
    text += "  val " + Fixed(*last_val_loss_, 4);
  }
  if (options_.tokens_per_epoch > 0) {
    text += "  epoch " + Fixed(static_cast<double>(options_.tokens_before + report.tokens) /
                                   static_cast<double>(options_.tokens_per_epoch),
                               2);
  }
  if (std::isfinite(report.tokens_per_second))
    text += "  " + Grouped(report.tokens_per_second) + " tokens/s";
  const int64_t left = options_.steps - report.step;
  if (left > 0 && report.tokens_per_second > 0 && report.step > 0) {
    const double tokens_per_step =
        static_cast<double>(report.tokens) / static_cast<double>(report.step);
    const double seconds = static_cast<double>(left) * tokens_per_step / report.tokens_per_second;
    text += "  " + Duration(seconds) + " left";
  }
  if (!terminal_) {
    std::fprintf(options_.progress, "%s\n", text.c_str());
    std::fflush(options_.progress);
    return;
  }
  constexpr int64_t kBarWidth = 24;
  const int64_t filled =
      options_.steps > 0 ? std::min(kBarWidth, kBarWidth * report.step / options_.steps) : 0;
  const std::string bar = std::string(static_cast<size_t>(filled), '#') +
                          std::string(static_cast<size_t>(kBarWidth - filled), '-');
  const bool last = left <= 0;
  std::string line = "[" + bar + "] " + text;
  // The result is shown whole, however narrow the terminal is.
  if (FitTerminal(options_.progress, line) != line)
    line = last ? text : FitTerminal(options_.progress, text);
  std::fprintf(options_.progress, "\r%s\x1b[K%s", line.c_str(), last ? "\n" : "");
  std::fflush(options_.progress);
  SetProgressOpen(bar_open_ = !last);
}

void RunReport::Finish() {
  if (bar_open_) std::fputc('\n', options_.progress);
  SetProgressOpen(bar_open_ = false);
  WriteKept();
  if (!kept_.empty() || lost_lines_ > 0) {
    spdlog::warn("{}/metrics.jsonl: {} lines are lost: there was no room for them", options_.out,
                 lost_lines_ + static_cast<uint64_t>(std::count(kept_.begin(), kept_.end(), '\n')));
  }
  LossPlot plot;
  plot.title = "Loss over " + std::to_string(options_.steps) + " steps";
  std::ifstream file(options_.out + "/metrics.jsonl");
  std::stringstream lines;
  if (file.peek() != std::ifstream::traits_type::eof()) lines << file.rdbuf();
  lines << kept_;
  for (const StepReport& report : ReadLines(lines)) {
    const auto step = static_cast<double>(report.step);
    if (std::isfinite(report.loss)) plot.train.push_back({step, report.loss});
    if (report.val_loss.has_value() && std::isfinite(*report.val_loss)) {
      plot.validation.push_back({step, *report.val_loss});
    }
  }
  const Status drawn = PublishFile(options_.out + "/loss.svg", LossSvg(plot));
  if (!drawn.ok()) spdlog::warn("the plot is not written: {}", drawn.message());
}

}  // namespace mf
