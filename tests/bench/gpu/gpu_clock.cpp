#include "tests/bench/gpu/gpu_clock.h"

#include <cublas_v2.h>

#include <cstdio>
#include <string>

namespace mf::cuda {

GpuBench::GpuBench(const Scale& scale) : scale_(scale) {
  Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
  Check(cudaEventCreate(&start_), "event");
  Check(cudaEventCreate(&end_), "event");
  Check(cudaMalloc(&flush_, scale.flush_bytes), "memory to flush caches with");
}

GpuBench::~GpuBench() {
  FreeMemory();
  cudaFree(flush_);
  cudaEventDestroy(start_);
  cudaEventDestroy(end_);
  cudaStreamDestroy(stream_);
}

void GpuBench::FreeMemory() {
  for (void* memory : memory_) cudaFree(memory);
  memory_.clear();
}

void* GpuBench::TakeBytes(size_t bytes) {
  memory_.push_back(nullptr);
  Check(cudaMalloc(&memory_.back(), bytes), "memory");
  return memory_.back();
}

void GpuBench::Copy(void* to, const void* from, size_t bytes) {
  Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_), "upload");
  Check(cudaStreamSynchronize(stream_), "upload");
}

float* GpuBench::Floats(size_t count) {
  constexpr size_t kBlock = size_t{1} << 20;
  std::normal_distribution<float> normal;
  std::vector<float> block(std::min(count, kBlock));
  for (float& x : block) x = normal(random_);
  float* const to = Take<float>(count);
  for (size_t i = 0; i < count; i += kBlock) {
    Copy(to + i, block.data(), std::min(kBlock, count - i) * sizeof(float));
  }
  return to;
}

double GpuBench::Microseconds(const std::function<void()>& run) {
  for (int i = 0; i < scale_.warm_up; ++i) run();
  std::vector<float> times;
  for (int i = 0; i < scale_.runs; ++i) {
    // The kernels that `run` starts queue up behind this, so the host's time to start them does not
    // count.
    Check(cudaMemsetAsync(flush_, i, scale_.flush_bytes, stream_), "flush");
    Check(cudaEventRecord(start_, stream_), "clock");
    run();
    Check(cudaEventRecord(end_, stream_), "clock");
    Check(cudaStreamSynchronize(stream_), "run");
    float milliseconds = 0;
    Check(cudaEventElapsedTime(&milliseconds, start_, end_), "clock");
    times.push_back(milliseconds);
  }
  const auto middle = times.begin() + scale_.runs / 2;
  std::nth_element(times.begin(), middle, times.end());
  return double{*middle} * 1000;
}

namespace {

double CopyRate(GpuBench& bench) {
  const size_t bytes = bench.scale().copy_bytes;
  char* const from = bench.Take<char>(bytes);
  char* const to = bench.Take<char>(bytes);
  Check(cudaMemsetAsync(from, 1, bytes, bench.stream()), "copy");
  const double microseconds = bench.Microseconds([&] {
    Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, bench.stream()), "copy");
  });
  bench.FreeMemory();
  return 2 * static_cast<double>(bytes) / microseconds * 1e6;
}

void CheckBlas(cublasStatus_t code) {
  if (code != CUBLAS_STATUS_SUCCESS) {
    throw CudaError(std::string("cuBLAS: ") + cublasGetStatusString(code));
  }
}

double MatrixRate(GpuBench& bench, cublasMath_t mode) {
  const int n = static_cast<int>(bench.scale().matrix);
  const size_t count = bench.scale().matrix * bench.scale().matrix;
  const float* a = bench.Floats(count);
  const float* b = bench.Floats(count);
  float* c = bench.Take<float>(count);
  cublasHandle_t handle = nullptr;
  CheckBlas(cublasCreate(&handle));
  CheckBlas(cublasSetStream(handle, bench.stream()));
  CheckBlas(cublasSetMathMode(handle, mode));
  const float one = 1, zero = 0;
  const double microseconds = bench.Microseconds([&] {
    CheckBlas(
        cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, n, n, n, &one, a, n, b, n, &zero, c, n));
  });
  CheckBlas(cublasDestroy(handle));
  bench.FreeMemory();
  return 2 * static_cast<double>(count) * n / microseconds * 1e6;
}

}  // namespace

GpuLimits PrintLimits(GpuBench& bench) {
  cudaDeviceProp properties;
  int device = 0;
  Check(cudaGetDevice(&device), "device");
  Check(cudaGetDeviceProperties(&properties, device), "device");
  const GpuLimits limits = {CopyRate(bench), MatrixRate(bench, CUBLAS_TF32_TENSOR_OP_MATH)};
  const double plain = MatrixRate(bench, CUBLAS_DEFAULT_MATH);
  std::printf("%s, sm_%d%d, %d multiprocessors\n", properties.name, properties.major,
              properties.minor, properties.multiProcessorCount);
  std::printf(
      "copy %.0f GB/s read and written; matrix product of %zu^3: TF32 %.1f TFLOP/s, "
      "float32 %.1f TFLOP/s\n\n",
      limits.copy_bytes_s / 1e9, bench.scale().matrix, limits.tf32_flops_s / 1e12, plain / 1e12);
  return limits;
}

}  // namespace mf::cuda
