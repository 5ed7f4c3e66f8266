// Which tensors the language model of a configuration has, and the description of a run that trains
// it: all that servers get to know of the configuration. Pure functions, so that all workers of a
// run describe it in the same way.
#pragma once

#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/run/run_description.h"
#include "worker/config/config.h"

namespace mf {

/// Bytes that a micro-batch is expected to move for a memory tensor at S = 1 (DESIGN 2.1 and 2.4),
/// by either mode. Where GPU workers have a copy of the rows (on_device) only gradients count.
struct ExchangeBytes {
  double pushdown = 0;
  double pull = 0;
};
ExchangeBytes BytesOfExchange(const Config& config, const TensorSpec& tensor);

/// All tensors of a model in canonical order: embed, blocks (norm1, qkv, norm2, m1, mid_norm, m2 or
/// their dense counterparts), final_norm, head. `mode = auto` and `placement = auto` are resolved
/// here (DESIGN 2.4).
std::vector<TensorSpec> TensorsOf(const Config& config);

/// The run that trains the model of `config` on the data of that digest, from its initial values.
RunDescription DescribeRun(const Config& config, const std::string& data_digest);
/// The other way: keys that only say how a run is carried out have their defaults. kInvalid if it
/// is not a run that this program describes.
Result<Config> ConfigOf(const RunDescription& run);

}  // namespace mf
