#include "worker/backend/cuda/parameters.h"

#include <utility>

namespace mf::cuda {
namespace {

void LayOut(const DenseTensors& host, Layout& layout, std::vector<float*>* tensors) {
  tensors->assign(host.size(), nullptr);
  for (size_t id = 0; id < host.size(); ++id) {
    if (!host[id].empty()) layout.Take(host[id].size(), &(*tensors)[id]);
  }
}

}  // namespace

DeviceParameters::DeviceParameters(Compute::Parameters host, cudaStream_t stream)
    : host_(std::move(host)) {
  Layout size;
  LayOut(*host_, size, &tensors_);
  memory_ = DeviceMemory(size.bytes(), "the dense tensors");
  Layout place(memory_.data());
  LayOut(*host_, place, &tensors_);
  for (size_t id = 0; id < tensors_.size(); ++id) {
    const std::vector<float>& values = (*host_)[id];
    if (values.empty()) continue;
    Check(cudaMemcpyAsync(tensors_[id], values.data(), values.size() * sizeof(float),
                          cudaMemcpyHostToDevice, stream),
          "upload of dense tensors");
  }
  Check(cudaStreamSynchronize(stream), "upload of dense tensors");
}

ParameterCache::ParameterCache() {
  Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
}

ParameterCache::~ParameterCache() { cudaStreamDestroy(stream_); }

std::shared_ptr<const DeviceParameters> ParameterCache::Get(const Compute::Parameters& host) {
  std::lock_guard lock(mutex_);
  if (newest_ == nullptr || !newest_->CopyOf(host)) {
    newest_ = std::make_shared<const DeviceParameters>(host, stream_);
  }
  return newest_;
}

}  // namespace mf::cuda
