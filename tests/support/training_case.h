// A small training and what is compared of it: shared by the tests of one result.
#pragma once

#include <cstdint>
#include <string>

#include "worker/config/config.h"
#include "worker/train/train_run.h"

namespace mf {

/// A temporary folder with a text to train on, gone with the object.
class TrainingFolder {
 public:
  TrainingFolder();
  ~TrainingFolder();
  TrainingFolder(const TrainingFolder&) = delete;

  std::string Path(const std::string& name) const { return path_ + "/" + name; }
  std::string text() const { return Path("text.txt"); }
  /// A folder for one run's output, another one at each call (from one thread).
  std::string NewRun() { return Path("run" + std::to_string(runs_++)); }

 private:
  std::string path_;
  int runs_ = 0;
};

/// The narrowest tensor has 48 columns: three blocks, one for each of three servers.
Config SmallTrainingConfig(int64_t steps);

struct TrainingOutcome {
  std::string metrics;  // step, loss, lr, grad_norm and val_loss of every line, as text
  std::string model;    // sha256 of the export
  bool operator==(const TrainingOutcome&) const = default;
};

/// Trains with `options`, whose out and export path are set here to `out`; failures are reported to
/// gtest. The folder `out` is removed.
TrainingOutcome TrainAndRead(TrainOptions options, const std::string& out,
                             TrainSummary* summary = nullptr);

}  // namespace mf
