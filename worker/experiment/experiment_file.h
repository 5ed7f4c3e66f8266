// A file of deploy/experiments: which configurations are compared, on what, how often.
//
//   config = "../configs/nano.toml"     # beside this file; may differ by variant
//   data = "corpus.txt"                 # or --data
//   steps = 800                         # or those of the configuration
//   seeds = [1, 2, 3]
//   set = ["train.batch=8"]             # for all variants
//
//   [[variant]]
//   name = "memory"
//
//   [[variant]]
//   name = "dense"
//   set = ["model.projection=dense", "train.lr=0.001"]
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "worker/config/config.h"

namespace mf {

struct ExperimentVariant {
  std::string name;  // of a folder and a line: letters, digits, '-', '_' and '.'
  std::string config;
  std::vector<std::string> overrides;  // section.key=value
  Config resolved;                     // of both
};

struct Experiment {
  std::string name;  // the file's, without folder and ending
  std::string data, validation;
  std::vector<uint64_t> seeds;
  std::vector<ExperimentVariant> variants;  // as in the file
};

/// Paths in it are relative to its folder. kInvalid, naming file, line and what is wrong, for
/// anything but an experiment all of whose configurations are right.
Result<Experiment> ReadExperiment(const std::string& path);

}  // namespace mf
