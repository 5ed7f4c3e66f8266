// What the trials of an experiment have shown: one file of JSON with every number, one table in
// Markdown, and curves.
#pragma once

#include <string>
#include <vector>

#include "common/base/status.h"
#include "worker/experiment/trials.h"

namespace mf {

/// Writes results.json, results.md and loss-by-{tokens,seconds,flops,bytes}.svg to `out`, of the
/// trials that are finished, each by rename. Equal trials on one machine give equal files. Returns
/// the table of results.md.
Result<std::string> WriteResults(const Experiment& experiment, const std::vector<Trial>& trials,
                                 const std::string& out);

}  // namespace mf
