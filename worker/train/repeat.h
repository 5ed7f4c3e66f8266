// `worker train --repeat OUT/run.json`: the run that a file describes once more, from its
// beginning.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/client/client.h"
#include "common/run/run_description.h"
#include "worker/train/initial_model.h"
#include "worker/train/run_file.h"

namespace mf {

struct Repetition {
  std::string path;  // of the run.json
  RunFile run;
};

/// The run's configuration with `overrides` (see LoadConfig). kInvalid, naming key and values, if
/// they would make another run of it; how it is carried out may be changed.
Result<Config> ConfigToRepeat(const Repetition& repeat, const std::vector<std::string>& overrides);

/// --out of a repetition: beside the run's own files unless it is given. kInvalid for the folder
/// that holds the run itself: a run that is there goes on instead of beginning anew.
Result<std::string> OutputOfRepetition(const Repetition& repeat, const std::string& given);

/// kInvalid, naming both digests, for other data than the run's.
Status CheckSameData(const Repetition& repeat, const std::string& data, const std::string& digest);

/// Says on one line what may give other last bits than the run had. kInvalid if the same program
/// makes another run, `run_id`, of what the file says.
Status CheckSameRun(const Repetition& repeat, const Platform& platform, const std::string& run_id);

/// The step of the snapshots that the run in `out` began with, if it began with those of `init`:
/// they were the newest then and need not be so any more. 0: it did not.
uint64_t InitialStepIn(const std::string& out, const InitialModel::Options& init);

/// For a worker that had no part in the run so far, before it joins the servers: kInvalid, saying
/// what to do, if they have the run up to its last step already, so that nothing would be computed.
/// One that is under way is gone on with, and that is said.
Status CheckNotDone(const Repetition& repeat, const RunDescription& run, Client& client);

}  // namespace mf
