// What the model asks of the world outside it: memory layers whose tables live elsewhere. Model
// code knows this interface only, no sockets, no shards. Implementations: RemoteExchange (servers),
// LocalExchange (tables of an exported file; forward only), and naive ones in tests.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/buffer.h"
#include "common/status.h"
#include "common/tensors.h"

namespace mf {

/// The hash of a micro-batch for one memory layer, pair-major as it goes over the wire: pair
/// p = k * probes + j of token t is at [p * tokens + t].
struct Hashes {
  size_t tokens = 0;
  size_t pairs = 0;  // K * probes
  size_t probes = 1;
  int index_bytes = 1;  // 1, 2 or 4, TensorSpec::index_bytes()
  Buffer indices;       // u8, u16 or u32 [pairs][tokens]
  Buffer weights;       // f32 [pairs][tokens]
};

class Exchange {
 public:
  virtual ~Exchange() = default;

  /// y[t][c] = sum over pairs of weight * row (no bias), float [tokens][columns], overwritten.
  virtual Status Forward(const TensorSpec& tensor, const Hashes& hashes, float* y) = 0;

  /// Contributes the row gradients of weight * dy and returns dweights[p][t] = <row, dy[t]>, float
  /// [pairs][tokens], overwritten. dy is float [tokens][columns]. Called once per layer and
  /// micro-batch.
  virtual Status Backward(const TensorSpec& tensor, const Hashes& hashes, const Buffer& dy,
                          float* dweights) = 0;
};

}  // namespace mf
