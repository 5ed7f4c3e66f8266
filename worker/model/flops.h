// Operations of one forward pass over one sequence in the paper's convention (a multiplication with
// an addition is one), and the size of a model.
#pragma once

#include <cstdint>

#include "worker/config/config.h"

namespace mf {

struct FlopsReport {
  int64_t parameters = 0;   // all tensors
  int64_t table_bytes = 0;  // 4 bytes per number of the memory tensors
  int64_t block_flops_without_attention = 0;
  int64_t block_flops = 0;
  int64_t model_flops = 0;
};

/// For sequences of `sequence` tokens.
FlopsReport Flops(const Config& config, int64_t sequence);

}  // namespace mf
