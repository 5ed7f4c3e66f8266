// Has all servers publish the state of a run's last finished step: what a worker does that ends as
// the last one, and `worker stop`.
#pragma once

#include <cstdint>

#include "common/base/status.h"
#include "common/client/client.h"

namespace mf {

/// Returns when all servers have published the state after `step` finished steps. kStale if one of
/// them is past it, because somebody goes on with the run; kFailed if it cannot be written, or is
/// not within `patience_seconds`.
Status SaveStep(Client& client, uint64_t step, double patience_seconds);

}  // namespace mf
