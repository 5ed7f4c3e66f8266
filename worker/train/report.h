// What a run tells people and tools: progress on the terminal, metrics.jsonl, loss.svg.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/status.h"

namespace mf {

/// A line of metrics.jsonl.
struct StepReport {
  int64_t step = 0;
  double loss = 0;  // mean over the whole step's tokens, nats
  double lr = 0;
  double grad_norm = 0;  // before clipping
  int64_t tokens = 0;    // of all steps up to this one
  double tokens_per_second = 0;
  bool dropped = false;  // the step changed no parameter
  std::optional<double> val_loss;
};

/// One line of JSON without the line break; keys in the order of the struct, numbers in the
/// shortest form that reads back the same, null for what is not finite.
std::string JsonLine(const StepReport& report);

/// The lines of a metrics.jsonl by rising step. Where a step stands several times (after a
/// rollback) the last line counts; lines that are cut are left out.
std::vector<StepReport> ReadMetrics(const std::string& path);

/// Writes OUT/metrics.jsonl as steps end and shows progress: a bar that redraws itself if
/// `progress` is a terminal, otherwise a plain line now and then. Used by one thread.
class RunReport {
 public:
  struct Options {
    std::string out;                // folder, made if missing
    int64_t steps = 0;              // of the whole run
    std::FILE* progress = nullptr;  // nullptr: none
  };
  /// kInvalid if the folder cannot be written. An existing metrics.jsonl is continued.
  static Result<std::unique_ptr<RunReport>> Open(const Options& options);
  ~RunReport();
  RunReport(const RunReport&) = delete;
  RunReport& operator=(const RunReport&) = delete;

  /// One finished step: a line in the file, flushed, and the progress. Nothing if the file already
  /// says the same of this step: a worker that is started again is told of all steps.
  Status Step(const StepReport& report);
  /// Ends the progress and draws OUT/loss.svg from the whole file.
  Status Finish();

 private:
  RunReport() = default;
  void ShowProgress(const StepReport& report);

  Options options_;
  std::FILE* file_ = nullptr;
  bool terminal_ = false;
  bool bar_open_ = false;
  std::optional<double> last_val_loss_;
  std::map<int64_t, std::string> known_;  // what the file says of each step: ResultOf()
  std::chrono::steady_clock::time_point shown_{};
};

}  // namespace mf
