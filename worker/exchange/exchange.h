// What the model asks of the world outside it: memory layers whose tables live elsewhere. Model
// code knows this interface only, no sockets, no shards. Implementations: RemoteExchange (servers),
// LocalExchange (tables of an exported file) and SnapshotModel (those of snapshots), which are
// forward only, and naive ones in tests.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/base/buffer.h"
#include "common/base/status.h"
#include "common/net/step.h"
#include "common/run/tensor_spec.h"

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

/// Rows and gradients by themselves, for backends that keep copies of rows.
class RowExchange {
 public:
  virtual ~RowExchange() = default;

  /// The state that rows are read from.
  virtual FinishedStep state() const = 0;
  /// values float [rows][columns] of global rows (u64), rising; waits for them.
  virtual Status PullRows(const TensorSpec& tensor, const Frame& rows, float* values) = 0;
  /// Contributes, once per layer and micro-batch, the row gradients of weight * dy, summed by the
  /// servers or (with `hits`, u32 a row) by the caller. In flight when they return: nobody writes
  /// to the buffers any more.
  virtual void SendGradient(const TensorSpec& tensor, const Hashes& hashes, const Buffer& dy) = 0;
  virtual void PushRows(const TensorSpec& tensor, const Frame& rows, const Frame& hits,
                        const Frame& values) = 0;
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

  /// Where rows themselves can be had, or nullptr.
  virtual RowExchange* rows() { return nullptr; }
};

}  // namespace mf
