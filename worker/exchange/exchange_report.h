// Says at the start of a run how its memory layers are exchanged, and why.
#pragma once

#include <string>
#include <vector>

#include "common/run/tensor_spec.h"
#include "worker/config/config.h"

namespace mf {

/// A line for each kind of layer (qkv, m1, m2) and way of exchange. The decision is a function of
/// the configuration alone; the bytes are what it was made by.
std::vector<std::string> DescribeExchange(const Config& config,
                                          const std::vector<TensorSpec>& tensors);

}  // namespace mf
