// Scratch of a lane for tables on the device: to find the rows that a micro-batch meets, to take in
// those that are missing, to sum row gradients.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/run/tensor_spec.h"
#include "worker/compute/cuda/kernels/rows.h"
#include "worker/compute/cuda/memory.h"

namespace mf::cuda {

/// What a lane needs to refresh any table and to sum its row gradients.
struct RowBuffers {
  RowGroups groups;
  uint32_t* stale = nullptr;        // [most rows]
  uint32_t* stale_count = nullptr;  // [1]
  float* values = nullptr;          // [PullAtOnce rows][columns]: what was pulled
  float* gradients = nullptr;       // [most rows][columns] of a tensor whose gradients are pushed
  uint32_t* hits = nullptr;         // [most rows]
};

/// Places the buffers for all of `tensors` that are on the device, for micro-batches of `tokens`
/// tokens and `probes` pairs a table. Takes nothing if none is.
void LayOutRows(const std::vector<TensorSpec>& tensors, size_t tokens, size_t probes,
                Layout& layout, RowBuffers* rows);

/// Rows that are pulled at once: a message, and its place on the GPU, stay near 64 MiB.
size_t PullAtOnce(size_t columns);

}  // namespace mf::cuda
