// The trainings of an experiment: each a `worker train` of its own in a folder of its own, so that
// one that ends badly costs itself, and those that were cut off go on where they were.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "worker/experiment/experiment_file.h"

namespace mf {

struct Trial {
  size_t variant = 0;  // in the experiment
  uint64_t seed = 0;
  std::string folder;                  // OUT/<variant>/seed-<seed>: an --out of `worker train`
  std::string data, validation;        // absolute
  std::string configuration;           // IdentityJson()
  std::string toml;                    // all of it, as the trial reads it: files may be changed
  std::vector<std::string> arguments;  // of `worker`
  // What is known of it, from folder/trial.json.
  bool finished = false;
  double seconds = 0;       // that its processes ran, together
  uint64_t peak_bytes = 0;  // resident in the largest of them
};

struct TrialOptions {
  std::string out;
  std::string data, validation;  // instead of the experiment's, if not empty
  int threads = 1;               // of each
  int jobs = 1;                  // at once
};

/// All of the experiment, by variant and seed, with what earlier starts have done of them. kInvalid
/// for data that is not there, and, naming the folder, if one holds a trial of other data or
/// another configuration, or nothing of a trial that is finished.
Result<std::vector<Trial>> PlanTrials(const Experiment& experiment, const TrialOptions& options);

/// Steps of a trial so far.
int64_t StepsOf(const Trial& trial);
/// kInvalid, naming two folders, if finished trials of a variant were not trained on the same data:
/// it was changed between them.
Status CheckSameData(const std::vector<Trial>& trials);

/// Runs those that are not finished, `jobs` at once. `changed` is called after each that ends, and
/// `waiting` some times a second. When `stopped` says so, those that run are asked to save their
/// last step and waited for. kFailed, naming its log, after all others if one has failed.
struct TrialHooks {
  std::function<void(const Trial&)> changed;
  std::function<void()> waiting;
  std::function<bool()> stopped;
};
Status RunTrials(const TrialOptions& options, std::vector<Trial>* trials, const TrialHooks& hooks);

}  // namespace mf
