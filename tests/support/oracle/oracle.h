// The model of DESIGN section 3 in plain double precision: loss, logits and the gradients of all
// tensors, tables included. What the float model is compared with.
#pragma once

#include <cstdint>
#include <vector>

#include "common/run/tensor_spec.h"
#include "worker/config/config.h"
#include "worker/model/model.h"

namespace mf::oracle {

/// By tensor id: [tables][rows][columns].
using Tensors = std::vector<std::vector<double>>;
/// By tensor id, empty for dense tensors: bucket indices [K * probes][tokens].
using Buckets = std::vector<std::vector<uint32_t>>;

struct Result {
  double loss_sum = 0;           // sum of -log p(target)
  std::vector<double> logits;    // [tokens][vocabulary]
  std::vector<double> logprobs;  // [tokens], of the targets
  Tensors gradients;             // of loss_scale * loss_sum; empty if not asked for
  Buckets choice;                // the buckets that double precision chooses
  Tensors border;                // by tensor id [K][tokens], see HashResult::border
};

struct Options {
  double loss_scale = 1;
  bool gradients = true;
  const Buckets* replay = nullptr;  // use these buckets instead of the own choice
};

Result Run(const Config& config, const std::vector<TensorSpec>& tensors, const Tensors& parameters,
           const TokenBatch& batch, const Options& options);

}  // namespace mf::oracle
