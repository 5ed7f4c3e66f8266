// A worker's part in the beginning of a run that is not made from a seed: brings the servers the
// rows with which it begins (InitialiseRequest).
#pragma once

#include <functional>

#include "common/base/status.h"
#include "common/client/client.h"
#include "common/run/run_description.h"
#include "worker/initial/row_source.h"

namespace mf {

struct BringHooks {
  std::function<Status()> join;   // the run, again, after a server was restarted
  std::function<bool()> stopped;  // the process is to end
};

/// Brings the rows to those servers that do not have them yet, and waits for other workers that are
/// bringing them. The run has been joined. kInvalid for servers that cannot keep them, kFailed for
/// those whose disks do not take them, kUnavailable if it was stopped.
Status BringRows(RowSource& rows, Client& client, const RunDescription& run,
                 const BringHooks& hooks);

}  // namespace mf
