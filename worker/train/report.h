// What a run tells people and tools: progress on the terminal, metrics.jsonl, loss.svg. None of it
// is worth the run: on a full disk what cannot be written is kept and written later.
#pragma once

#include <array>
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
  /// Of the whole run while this worker waited for the step; not a number where it did not.
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

/// How fast the run is, as one worker sees it: it times the steps that end while it waits, not
/// those that it is told of because it came later or was held.
class StepClock {
 public:
  using Time = std::chrono::steady_clock::time_point;

  /// `steps` of the run that were not known before became known together, the first of them step
  /// `first`; they are of `tokens_per_step` each. Tokens per second of each of them; not a number
  /// where that is unknown: of the first ones that are told, and of so many that they tell of a
  /// time before.
  double Told(uint64_t first, uint64_t steps, int64_t tokens_per_step, Time now);
  /// Whether the steps of the last Told() ended while this worker was there.
  bool there() const { return there_; }

 private:
  std::optional<Time> last_;  // told to the end: what is told later ends later
  bool there_ = false;
};

/// Writes OUT/metrics.jsonl as steps end and shows progress: a bar that redraws itself if
/// `progress` is a terminal, otherwise a plain line now and then. Used by one thread.
class RunReport {
 public:
  struct Options {
    std::string out;                // folder, made if missing
    int64_t steps = 0;              // of the whole run
    std::FILE* progress = nullptr;  // nullptr: none
    int64_t tokens_per_epoch = 0;   // 0: epochs are not shown
    int64_t tokens_before = 0;      // of earlier training, which epochs are counted from
  };
  /// kInvalid if the folder cannot be written. An existing metrics.jsonl is continued.
  static Result<std::unique_ptr<RunReport>> Open(const Options& options);
  ~RunReport();
  RunReport(const RunReport&) = delete;
  RunReport& operator=(const RunReport&) = delete;

  /// One finished step: a line in the file, and the progress. Nothing if the file already says the
  /// same of this step: a worker that is started again is told of all steps. A line that cannot be
  /// written now is kept, whole, for a later call; that is said once, and again when it works.
  void Step(const StepReport& report);
  /// Ends the progress, writes what was kept and draws OUT/loss.svg from all lines. Says what could
  /// not be written.
  void Finish();

 private:
  RunReport() = default;
  void ShowProgress(const StepReport& report);
  /// Writes what is kept, up to its last whole line that finds room.
  void WriteKept();

  Options options_;
  int file_ = -1;
  std::string kept_;         // whole lines that are not in the file yet
  uint64_t lost_lines_ = 0;  // that were too many to keep
  bool full_ = false;        // said
  bool terminal_ = false;
  bool bar_open_ = false;
  std::optional<double> last_val_loss_;
  /// What the file says of a step: a hash of it without the time, so that a million steps
  /// take 8 MB; 0: nothing.
  uint64_t& Known(int64_t step);
  static constexpr uint64_t kBlock = 1024;  // steps
  std::map<uint64_t, std::array<uint64_t, kBlock>> known_;
  std::chrono::steady_clock::time_point shown_{};
};

}  // namespace mf
