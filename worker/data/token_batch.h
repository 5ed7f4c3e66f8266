// The tokens of a micro-batch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mf {

/// `sequences` sequences of `length` tokens each, [sequences][length] row-major. Targets are what
/// each position should predict.
struct TokenBatch {
  size_t sequences = 0;
  size_t length = 0;
  std::vector<uint32_t> inputs;
  std::vector<uint32_t> targets;
  size_t tokens() const { return sequences * length; }
};

}  // namespace mf
