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
  std::vector<std::string> arguments;  // of `worker`
  std::string configuration;           // IdentityJson(): the file may be changed
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

/// All of the experiment, by variant and seed, with what earlier starts have done of them.
/// kInvalid, naming the folder, if it holds a trial of other arguments.
Result<std::vector<Trial>> PlanTrials(const Experiment& experiment, const TrialOptions& options);

/// Steps of a trial so far.
int64_t StepsOf(const Trial& trial);

/// Runs those that are not finished, `jobs` at once. `changed` is called after each that ends, and
/// `waiting` some times a second. When `stopped` says so, those that run are asked to save their
/// last step and waited for. kFailed, naming its log, after all others if one has failed.
struct TrialHooks {
  std::function<Status(const Trial&)> changed;
  std::function<void()> waiting;
  std::function<bool()> stopped;
};
Status RunTrials(const TrialOptions& options, std::vector<Trial>* trials, const TrialHooks& hooks);

}  // namespace mf
