#include "worker/train/report.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "common/base/files.h"
#include "worker/train/plot.h"

namespace mf {
namespace {

namespace fs = std::filesystem;

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

/// What does not depend on when and where a step was done.
std::string ResultOf(StepReport report) {
  report.tokens_per_second = 0;
  return JsonLine(report);
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

std::vector<StepReport> ReadMetrics(const std::string& path) {
  std::map<int64_t, StepReport> steps;
  std::ifstream in(path);
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

Result<std::unique_ptr<RunReport>> RunReport::Open(const Options& options) {
  std::error_code error;
  fs::create_directories(options.out, error);
  if (error) {
    return Status::Invalid(options.out + ": cannot make this folder: " + error.message() +
                           "; give another --out");
  }
  const std::string path = options.out + "/metrics.jsonl";
  const bool cut = EndsInsideALine(path);
  std::unique_ptr<RunReport> report(new RunReport);
  for (const StepReport& line : ReadMetrics(path)) report->known_[line.step] = ResultOf(line);
  report->options_ = options;
  report->file_ = std::fopen(path.c_str(), "ae");
  if (report->file_ == nullptr) return CanNotWrite(path);
  if (cut) std::fputc('\n', report->file_);
  report->terminal_ = options.progress != nullptr && isatty(fileno(options.progress)) != 0;
  return report;
}

RunReport::~RunReport() {
  if (bar_open_) std::fputc('\n', options_.progress);
  std::fclose(file_);
}

Status RunReport::Step(const StepReport& report) {
  std::string& known = known_[report.step];
  if (std::string result = ResultOf(report); std::exchange(known, result) == result) {
    return Status::Ok();
  }
  const std::string line = JsonLine(report) + "\n";
  if (std::fwrite(line.data(), 1, line.size(), file_) != line.size() || std::fflush(file_) != 0) {
    return Status::Failed(options_.out +
                          "/metrics.jsonl: cannot write it: " + std::strerror(errno));
  }
  if (report.val_loss.has_value()) last_val_loss_ = report.val_loss;
  if (options_.progress != nullptr) ShowProgress(report);
  return Status::Ok();
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
  std::fprintf(options_.progress, "\r[%s] %s\x1b[K", bar.c_str(), text.c_str());
  std::fflush(options_.progress);
  bar_open_ = true;
}

Status RunReport::Finish() {
  if (bar_open_) std::fputc('\n', options_.progress);
  bar_open_ = false;
  LossPlot plot;
  plot.title = "Loss over " + std::to_string(options_.steps) + " steps";
  for (const StepReport& report : ReadMetrics(options_.out + "/metrics.jsonl")) {
    const auto step = static_cast<double>(report.step);
    if (std::isfinite(report.loss)) plot.train.push_back({step, report.loss});
    if (report.val_loss.has_value() && std::isfinite(*report.val_loss)) {
      plot.validation.push_back({step, *report.val_loss});
    }
  }
  return PublishFile(options_.out + "/loss.svg", LossSvg(plot));
}

}  // namespace mf
