// What computes a worker's micro-batches: the CPU (worker/compute/cpu_compute.h) or a GPU
// (worker/compute/cuda/compute.h). The trainer knows this interface only.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/base/thread_pool.h"
#include "common/run/tensor_spec.h"
#include "worker/config/config.h"
#include "worker/exchange/exchange.h"
#include "worker/model/model.h"

namespace mf {

class Compute {
 public:
  /// Activations and scratch of one micro-batch in flight; belongs to one thread at a time.
  class Workspace {
   public:
    virtual ~Workspace() = default;
  };
  /// Of a tensor, or of some of its rows where all others have none.
  struct Gradient {
    std::span<const float> values;  // [rows][columns]
    std::vector<uint64_t> rows;     // rising; empty: all
  };
  /// By tensor id, empty for memory tensors. Values live in the workspace until its next use.
  using Gradients = std::vector<Gradient>;
  /// Shared, because a backend may keep its own copy of them from one micro-batch to the next.
  using Parameters = std::shared_ptr<const DenseTensors>;

  virtual ~Compute() = default;

  /// For people: what computes.
  virtual std::string Describe() const = 0;
  /// Memory of the device that is taken; 0 if it is the machine's own.
  virtual uint64_t device_bytes() const { return 0; }
  /// Whether micro-batches compute one at a time (they share the pool's cores) or side by side.
  virtual bool one_at_a_time() const = 0;
  /// The servers were replaced: what was copied from them counts no more.
  virtual void Forget() {}
  /// kFailed, saying what to change, if there is no memory for one more micro-batch in flight.
  virtual Result<std::unique_ptr<Workspace>> NewWorkspace() = 0;

  /// As Model::Train and Model::Score. kFailed if the device fails.
  virtual Status Train(const Parameters& parameters, const TokenBatch& batch, double loss_scale,
                       Exchange& exchange, Workspace& workspace, double* loss_sum,
                       Gradients* gradients) = 0;
  virtual Status Score(const Parameters& parameters, const TokenBatch& batch, Exchange& exchange,
                       Workspace& workspace, std::vector<float>* logprobs) = 0;
};

enum class Backend { kAuto, kCpu, kCuda };

/// The backend asked for; kAuto is the GPU if this build has that backend and a GPU is there.
/// kFailed, saying why, if it cannot be had. All arguments outlive it.
Result<std::unique_ptr<Compute>> MakeCompute(Backend backend, const Config& config,
                                             const std::vector<TensorSpec>& tensors,
                                             ThreadPool& pool);

}  // namespace mf
