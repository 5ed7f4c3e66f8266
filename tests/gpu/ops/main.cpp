// Runs the GPU tests of single operations: ops_test [--seed N] [PART OF A NAME]. Exit codes: 0 all
// hold, 1 some do not, 2 bad usage, 77 no GPU here.
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <limits>

#include "tests/gpu/ops/harness.h"

namespace mf::gpu_test {
namespace {

struct Test {
  const char* name;
  void (*body)();
};

std::vector<Test>& Tests() {
  static std::vector<Test> tests;
  return tests;
}

long g_checks = 0;
long g_faults = 0;
constexpr unsigned char kPoison = 0xFF;  // a NaN in floats
constexpr unsigned char kGuardByte = 0xA5;

}  // namespace

Registration::Registration(const char* name, void (*body)()) { Tests().push_back({name, body}); }

void Expect(bool holds, const char* format, ...) {
  ++g_checks;
  if (holds) return;
  ++g_faults;
  std::printf("  FAULT: ");
  va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::printf("\n");
}

std::mt19937_64& Random() {
  static std::mt19937_64 random;
  return random;
}

std::vector<float> RandomNormals(size_t count, double spread) {
  std::normal_distribution<double> normal(0, spread);
  std::vector<float> out(count);
  for (float& x : out) x = static_cast<float>(normal(Random()));
  return out;
}

cudaStream_t Stream() {
  static const cudaStream_t stream = [] {
    cudaStream_t made = nullptr;
    cuda::Check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "stream");
    return made;
  }();
  return stream;
}

RawArray::RawArray(size_t bytes) : bytes_(bytes) {
  cuda::Check(cudaMalloc(reinterpret_cast<void**>(&base_), bytes + 2 * kGuard), "memory");
  cuda::Check(cudaMemsetAsync(base_, kGuardByte, bytes + 2 * kGuard, Stream()), "guard");
  if (bytes > 0) cuda::Check(cudaMemsetAsync(base_ + kGuard, kPoison, bytes, Stream()), "poison");
}

RawArray::RawArray(const void* from, size_t bytes) : RawArray(bytes) {
  if (bytes == 0) return;
  cuda::Check(cudaMemcpyAsync(base_ + kGuard, from, bytes, cudaMemcpyHostToDevice, Stream()),
              "upload");
  cuda::Check(cudaStreamSynchronize(Stream()), "upload");
}

RawArray::~RawArray() {
  std::vector<unsigned char> all(bytes_ + 2 * kGuard);
  cuda::Check(cudaMemcpyAsync(all.data(), base_, all.size(), cudaMemcpyDeviceToHost, Stream()),
              "guard");
  cuda::Check(cudaStreamSynchronize(Stream()), "guard");
  size_t written = 0;
  for (size_t i = 0; i < kGuard; ++i) {
    written += all[i] != kGuardByte;
    written += all[kGuard + bytes_ + i] != kGuardByte;
  }
  Expect(written == 0, "%zu bytes beside an array of %zu bytes were written", written, bytes_);
  cuda::Check(cudaFree(base_), "memory");
}

void RawArray::Download(void* to) const {
  if (bytes_ == 0) return;
  cuda::Check(cudaMemcpyAsync(to, data(), bytes_, cudaMemcpyDeviceToHost, Stream()), "download");
  cuda::Check(cudaStreamSynchronize(Stream()), "download");
}

std::vector<double> Wide(const std::vector<float>& x) { return {x.begin(), x.end()}; }

double Error(const std::vector<float>& got, const std::vector<double>& expected, double size) {
  if (got.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  double largest = size;
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = std::abs(static_cast<double>(got[i]) - expected[i]);
    if (std::isnan(difference)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, difference);
    largest = std::max(largest, std::abs(expected[i]));
  }
  return worst / largest / static_cast<double>(std::numeric_limits<float>::epsilon());
}

bool RoundsToTf32() {
#ifdef MF_EMULATED_GPU
  return false;
#else
  return true;
#endif
}

namespace {

int Main(int argc, char** argv) {
  uint64_t seed = std::random_device()();
  std::string wanted;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--seed" && i + 1 < argc) {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (argument.starts_with("-")) {
      std::fprintf(stderr, "usage: ops_test [--seed N] [PART OF A NAME]\n");
      return 2;
    } else {
      wanted = argument;
    }
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("ops_test: skipped, there is no GPU here\n");
    return 77;
  }
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  for (const Test& test : Tests()) {
    if (std::string(test.name).find(wanted) == std::string::npos) continue;
    Random().seed(seed);
    const long before = g_faults;
    const long checks = g_checks;
    try {
      test.body();
      cuda::Check(cudaStreamSynchronize(Stream()), "the test's kernels");
    } catch (const std::exception& error) {
      Expect(false, "%s", error.what());
    }
    std::printf("%-6s %s (%ld checks)\n", g_faults == before ? "ok" : "FAULT", test.name,
                g_checks - checks);
    std::fflush(stdout);
  }
  std::printf("%ld checks, %ld faults\n", g_checks, g_faults);
  return g_faults == 0 && g_checks > 0 ? 0 : 1;
}

}  // namespace
}  // namespace mf::gpu_test

int main(int argc, char** argv) { return mf::gpu_test::Main(argc, argv); }
