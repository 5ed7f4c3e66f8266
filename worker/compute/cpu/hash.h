// The hash of a memory layer (eq. 2-4, 9, 10 of the paper and DESIGN section 3): tokens to bucket
// indices and weights, and the gradient of the weights. Usable on its own.
#pragma once

#include <cstddef>

#include "worker/config/config.h"
#include "worker/exchange/exchange.h"

namespace mf {

struct HashParameters {
  size_t tables = 0;  // K
  size_t bits = 0;    // numbers per sub-vector z_k, at most 32
  size_t probes = 1;  // m; at most bits + 1
  Score score = Score::kScaled;
  float temperature = 1;
  int index_bytes = 1;

  size_t width() const { return tables * bits; }
  size_t pairs() const { return tables * probes; }
};

/// Empty hashes of fresh memory: buffers that went out with a message are never written again.
Hashes MakeHashes(const HashParameters& hash, size_t tokens);

/// Hashes z [count][width], the rows of tokens [begin, begin + count), into their places in `out`.
void HashRows(const HashParameters& hash, const float* z, size_t begin, size_t count,
              const Hashes& out);

/// dz [count][width] = gradient of z through the weights, the indices being constants. `z` as given
/// to HashRows, dweights [pairs][tokens] of all tokens. Overwrites dz.
void HashBackwardRows(const HashParameters& hash, const float* z, size_t begin, size_t count,
                      size_t tokens, const float* dweights, float* dz);

}  // namespace mf
