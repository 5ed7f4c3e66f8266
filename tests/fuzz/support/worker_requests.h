// Right requests about a run's tensors, with numbers that a formula gives: what a worker would
// send.
#pragma once

#include <cstdint>

#include "common/net/messages.h"
#include "common/run/run_description.h"

namespace mf::fuzz {

/// `columns`: of the tensor, on the server that is asked.
Request ForwardOf(const RunDescription& run, const TensorSpec& tensor, ReadState at);
Request BackwardOf(const RunDescription& run, const TensorSpec& tensor, OpenStep at,
                   uint32_t micro_batch, size_t columns);
/// Of all rows, or of the first one alone; of a keyed tensor two rows of the last ranges.
Request PushOf(const TensorSpec& tensor, OpenStep at, uint32_t micro_batch, size_t columns,
               bool all);
Request PullOf(const TensorSpec& tensor, ReadState at);

}  // namespace mf::fuzz
