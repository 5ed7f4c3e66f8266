// What one micro-batch in flight has on the GPU: a stream of its own, its activations, and pinned
// memory of the host for what is copied. Everything is allocated once, for the largest micro-batch.
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <vector>

#include "common/run/tensor_spec.h"
#include "worker/compute/compute.h"
#include "worker/compute/cuda/matmul.h"
#include "worker/compute/cuda/memory.h"
#include "worker/compute/cuda/row_buffers.h"
#include "worker/config/config.h"
#include "worker/model/model_state.h"

namespace mf::cuda {

/// A stream that is gone with the object.
class Stream {
 public:
  Stream() { Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream"); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t get() const { return stream_; }
  /// Until all that was started on it is done. Throws CudaError.
  void Wait() const { Check(cudaStreamSynchronize(stream_), "work on the GPU"); }

 private:
  cudaStream_t stream_ = nullptr;
};

/// A place on a stream that the host can wait for.
class Event {
 public:
  Event() { Check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "event"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void Record(cudaStream_t stream) const { Check(cudaEventRecord(event_, stream), "event"); }
  /// Until the stream has come by. Throws CudaError.
  void Wait() const { Check(cudaEventSynchronize(event_), "work on the GPU"); }

 private:
  cudaEvent_t event_ = nullptr;
};

/// The hash of a memory layer, [pairs][T].
struct HashBuffers {
  std::byte* indices = nullptr;
  float* weights = nullptr;
};

/// What a block keeps from forward to backward. T = tokens, d = width of the residual stream, w =
/// width of the middle, as in BlockActivations.
struct BlockBuffers {
  float* x = nullptr;         // [T][d]
  float* qkv = nullptr;       // [T][3d] rotated
  float* attended = nullptr;  // [T][d]
  float* log_sums = nullptr;  // [T][heads]
  float* z = nullptr;         // [T][d]
  float* middle = nullptr;    // [T][w]
  // Kept where the backward pass needs them on the GPU (tensors on the device), else scratch that
  // all layers share.
  HashBuffers qkv_hash, first_hash, second_hash;
};

/// Arrays on the GPU.
struct DeviceBuffers {
  std::vector<BlockBuffers> blocks;
  float* x = nullptr;         // [T][d] output of the last block
  float* normed = nullptr;    // [T][d]
  float* wide = nullptr;      // [T][w] dense: gelu
  float* logits = nullptr;    // [slice][vocabulary]
  double* nll = nullptr;      // [T]
  float* dx = nullptr;        // [T][d]
  float* dnormed = nullptr;   // [T][max(d, w)]
  float* dqkv = nullptr;      // [T][3d]
  float* dmiddle = nullptr;   // [T][w]
  float* products = nullptr;  // [T][heads]
  float* sums = nullptr;      // partial sums of gains and biases
  float* dweights = nullptr;  // [pairs][T]
  // The batch: tokens, targets, and the tokens by id (embedding.h).
  uint32_t* ids = nullptr;        // [T]
  uint32_t* targets = nullptr;    // [T]
  uint32_t* begin = nullptr;      // [T + 1]
  uint32_t* positions = nullptr;  // [T]
  std::vector<float*> gradients;  // by tensor id, of the dense tensors; the embedding's is the last
};

/// Arrays in pinned memory of the host.
struct HostBuffers {
  float* y = nullptr;         // [T][max(3d, w)]
  float* dweights = nullptr;  // [pairs][T]
  double* nll = nullptr;      // [T]
  uint32_t* ids = nullptr;    // ids, targets, begin and positions as they stand on the GPU
  uint32_t* targets = nullptr;
  uint32_t* begin = nullptr;
  uint32_t* positions = nullptr;
  std::vector<float*> gradients;  // as on the GPU
};

class Lane final : public Compute::Workspace {
 public:
  /// For micro-batches of up to `tokens` tokens. Throws CudaError.
  Lane(const Config& config, const std::vector<TensorSpec>& tensors, const Model::Plan& plan,
       size_t tokens);
  ~Lane() override { cudaStreamSynchronize(stream.get()); }  // before its memory goes

  const size_t tokens;      // at most
  const size_t slice_rows;  // tokens whose logits exist at once
  Stream stream;
  Event copied;
  MatrixProducts products;
  RowBuffers rows;  // of tables on the device
  DeviceBuffers device;
  HostBuffers host;
  PinnedPool pinned;  // for messages

  /// Copies on the stream.
  template <class T>
  void Upload(const T* from, size_t count, T* to) const {
    Check(cudaMemcpyAsync(to, from, count * sizeof(T), cudaMemcpyHostToDevice, stream.get()),
          "upload");
  }
  template <class T>
  void Download(const T* from, size_t count, T* to) const {
    Check(cudaMemcpyAsync(to, from, count * sizeof(T), cudaMemcpyDeviceToHost, stream.get()),
          "download");
  }

 private:
  DeviceMemory memory_;
  Buffer host_memory_;
};

}  // namespace mf::cuda
