// How near the CUDA kernels come to what the GPU can do: one table, beside the bandwidth of a copy
// and the rate of cuBLAS measured in the same run. Needs the CUDA toolkit and the kernels only:
//
//   nvcc -std=c++20 -O3 -arch=native -I. -o gpu_kernels_bench tests/bench/gpu/gpu_kernels_bench.cpp
//     tests/bench/gpu/gpu_clock.cpp worker/compute/cuda/*.cu -lcublas
//
// gpu_kernels_bench [--quick]; --quick: few repetitions of small shapes, which say nothing about
// speed. Exit codes: 0 done, 1 an error of the GPU, 2 bad usage, 77 no GPU here.
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "tests/bench/gpu/gpu_clock.h"
#include "worker/compute/cuda/kernels/cross_entropy.h"
#include "worker/compute/cuda/kernels/elementwise.h"
#include "worker/compute/cuda/kernels/hash.h"
#include "worker/compute/cuda/kernels/norm.h"
#include "worker/compute/cuda/kernels/rows.h"

namespace mf::cuda {
namespace {

/// What is timed, and what it has to do at least.
struct Case {
  std::string name;
  std::string shape;
  double bytes = 0;  // moved by the algorithm: each input that it reads, as often as it needs it
  double flops = 0;  // of matrix products; 0 if memory is what limits it
  std::function<void()> run;
};

std::string Text(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string Text(const char* format, ...) {
  char text[256];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  return text;
}

// Memory layers.

enum class Buckets { kUniform, kHalfAlike };  // kHalfAlike: half of the tokens meet one row a table

struct Layer {
  Pairs pairs;
  size_t columns;
  double row_bytes;   // of the rows of all pairs
  double hash_bytes;  // of indices and weights
  std::string shape;
};

Layer MakeLayer(GpuBench& bench, size_t tau, Buckets buckets = Buckets::kUniform) {
  const Scale& scale = bench.scale();
  Layer layer;
  Pairs& pairs = layer.pairs;
  pairs.tokens = scale.tokens;
  pairs.tables = scale.tables;
  pairs.rows_per_table = size_t{1} << tau;
  pairs.index_bytes = tau <= 8 ? 1 : 2;
  const auto mask = static_cast<uint16_t>(pairs.rows_per_table - 1);
  std::vector<uint16_t> wide(pairs.entries());
  for (uint16_t& index : wide) {
    const uint64_t any = bench.random()();
    index =
        buckets == Buckets::kHalfAlike && any >> 63 != 0 ? 0 : static_cast<uint16_t>(any) & mask;
  }
  pairs.indices =
      tau <= 8 ? static_cast<void*>(bench.Upload(std::vector<uint8_t>(wide.begin(), wide.end())))
               : bench.Upload(wide);
  pairs.weights = bench.Floats(pairs.entries());
  layer.columns = scale.columns;
  const auto entries = static_cast<double>(pairs.entries());
  layer.row_bytes = entries * static_cast<double>(layer.columns * sizeof(float));
  layer.hash_bytes = entries * static_cast<double>(static_cast<size_t>(pairs.index_bytes) + 4);
  layer.shape = Text("%zu tokens, %zu x 2^%zu rows x %zu%s", pairs.tokens, pairs.tables, tau,
                     layer.columns, buckets == Buckets::kHalfAlike ? ", half alike" : "");
  return layer;
}

double TokenBytes(const Layer& layer) {  // of y or dy
  return static_cast<double>(layer.pairs.tokens * layer.columns * sizeof(float));
}

Case GatherReduceCase(GpuBench& bench, size_t tau) {
  const Layer layer = MakeLayer(bench, tau);
  const float* table = bench.Floats(layer.pairs.rows() * layer.columns);
  float* y = bench.Take<float>(layer.pairs.tokens * layer.columns);
  return {"GatherReduce", layer.shape, layer.row_bytes + layer.hash_bytes + TokenBytes(layer), 0,
          [=, &bench] { GatherReduce(bench.stream(), layer.pairs, table, layer.columns, y); }};
}

Case PairDotsCase(GpuBench& bench, size_t tau) {
  const Layer layer = MakeLayer(bench, tau);
  const float* table = bench.Floats(layer.pairs.rows() * layer.columns);
  const float* dy = bench.Floats(layer.pairs.tokens * layer.columns);
  float* dweights = bench.Take<float>(layer.pairs.entries());
  return {
      "PairDots", layer.shape, layer.row_bytes + layer.hash_bytes + TokenBytes(layer), 0,
      [=, &bench] { PairDots(bench.stream(), layer.pairs, table, layer.columns, dy, dweights); }};
}

RowGroups MakeGroups(GpuBench& bench, const Pairs& pairs) {
  return {bench.Take<uint32_t>(pairs.most_rows()), bench.Take<uint32_t>(pairs.most_rows() + 1),
          bench.Take<uint32_t>(pairs.entries()), bench.Take<uint32_t>(1),
          bench.Take<char>(RowGroupsScratchBytes(pairs))};
}

/// The least: each pair's index is read and its entry written once; a sort moves them several
/// times.
Case GroupByRowCase(GpuBench& bench, size_t tau) {
  const Layer layer = MakeLayer(bench, tau);
  const RowGroups groups = MakeGroups(bench, layer.pairs);
  return {"GroupByRow", layer.shape, layer.hash_bytes, 0,
          [=, &bench] { GroupByRow(bench.stream(), layer.pairs, groups); }};
}

Case RowGradientsCase(GpuBench& bench, size_t tau, Buckets buckets) {
  const Layer layer = MakeLayer(bench, tau, buckets);
  const RowGroups groups = MakeGroups(bench, layer.pairs);
  GroupByRow(bench.stream(), layer.pairs, groups);
  uint32_t count = 0;
  Check(
      cudaMemcpyAsync(&count, groups.count, sizeof(count), cudaMemcpyDeviceToHost, bench.stream()),
      "count");
  Check(cudaStreamSynchronize(bench.stream()), "count");
  const float* dy = bench.Floats(layer.pairs.tokens * layer.columns);
  float* gradients = bench.Take<float>(count * layer.columns);
  uint32_t* hits = bench.Take<uint32_t>(count);
  const double written = static_cast<double>(count * (layer.columns + 1) * sizeof(float));
  const double groups_read = static_cast<double>(layer.pairs.entries()) * 8;  // entries, weights
  return {"RowGradients", layer.shape, layer.row_bytes + groups_read + written, 0, [=, &bench] {
            RowGradients(bench.stream(), layer.pairs, groups, dy, layer.columns, gradients, hits);
          }};
}

Case ScatterRowsCase(GpuBench& bench) {
  const Scale& scale = bench.scale();
  const size_t count = scale.tables << scale.small_tau;
  std::vector<uint32_t> rows(count);
  for (size_t i = 0; i < count; ++i) rows[i] = static_cast<uint32_t>(i);
  std::shuffle(rows.begin(), rows.end(), bench.random());
  const uint32_t* stale = bench.Upload(rows);
  const float* values = bench.Floats(count * scale.columns);
  float* table = bench.Take<float>(count * scale.columns);
  return {"ScatterRows", Text("%zu rows x %zu", count, scale.columns),
          static_cast<double>(count * (2 * scale.columns + 1) * sizeof(float)), 0, [=, &bench] {
            ScatterRows(bench.stream(), stale, count, values, bench.scale().columns, table);
          }};
}

// Norm and hash.

NormParameters MakeNorm(GpuBench& bench, size_t width) {
  NormParameters norm;
  norm.width = width;
  norm.gain = bench.Floats(width);
  return norm;
}

std::string RowsText(size_t rows, size_t width) { return Text("%zu rows x %zu", rows, width); }

Case NormForwardCase(GpuBench& bench) {
  const size_t rows = bench.scale().tokens, width = bench.scale().columns;
  const NormParameters norm = MakeNorm(bench, width);
  const float* x = bench.Floats(rows * width);
  float* y = bench.Take<float>(rows * width);
  return {"NormForward", RowsText(rows, width), static_cast<double>(rows * width * 8), 0,
          [=, &bench] { NormForward(bench.stream(), norm, x, rows, y); }};
}

Case NormBackwardCase(GpuBench& bench) {
  const size_t rows = bench.scale().tokens, width = bench.scale().columns;
  const NormParameters norm = MakeNorm(bench, width);
  const float* x = bench.Floats(rows * width);
  const float* dy = bench.Floats(rows * width);
  const NormGradients out = {bench.Floats(rows * width), bench.Take<float>(rows * width),
                             bench.Take<float>(width), nullptr};
  float* scratch = bench.Take<float>(NormScratch(rows, width));
  return {"NormBackward", RowsText(rows, width), static_cast<double>(rows * width * 16), 0,
          [=, &bench] { NormBackward(bench.stream(), norm, x, dy, rows, out, scratch); }};
}

HashParameters MakeHash(const Scale& scale) {
  HashParameters hash;
  hash.bits = scale.small_tau;
  hash.tables = scale.columns / hash.bits;
  return hash;
}

Case HashForwardCase(GpuBench& bench) {
  const size_t tokens = bench.scale().tokens;
  const HashParameters hash = MakeHash(bench.scale());
  const NormParameters norm = MakeNorm(bench, hash.width());
  const float* x = bench.Floats(tokens * hash.width());
  void* indices = bench.Take<uint8_t>(hash.pairs() * tokens);
  float* weights = bench.Take<float>(hash.pairs() * tokens);
  return {"HashForward", Text("%zu tokens, %zu x %zu bits", tokens, hash.tables, hash.bits),
          static_cast<double>(tokens * (hash.width() * 4 + hash.pairs() * 5)), 0,
          [=, &bench] { HashForward(bench.stream(), norm, hash, x, tokens, indices, weights); }};
}

Case HashBackwardCase(GpuBench& bench) {
  const size_t tokens = bench.scale().tokens;
  const HashParameters hash = MakeHash(bench.scale());
  const NormParameters norm = MakeNorm(bench, hash.width());
  const float* x = bench.Floats(tokens * hash.width());
  const float* dweights = bench.Floats(hash.pairs() * tokens);
  float* dz = bench.Take<float>(tokens * hash.width());
  return {"HashBackward", Text("%zu tokens, %zu x %zu bits", tokens, hash.tables, hash.bits),
          static_cast<double>(tokens * (hash.width() * 8 + hash.pairs() * 4)), 0,
          [=, &bench] { HashBackward(bench.stream(), norm, hash, x, tokens, dweights, dz); }};
}

// The rest of a model.

Case CrossEntropyBackwardCase(GpuBench& bench) {
  const size_t rows = bench.scale().tokens, vocabulary = bench.scale().vocabulary;
  float* logits = bench.Floats(rows * vocabulary);
  std::vector<uint32_t> ids(rows);
  for (uint32_t& id : ids) id = static_cast<uint32_t>(bench.random()() % vocabulary);
  const uint32_t* targets = bench.Upload(ids);
  double* nll = bench.Take<double>(rows);
  return {"CrossEntropyBackward", RowsText(rows, vocabulary),
          static_cast<double>(rows * vocabulary * 8), 0, [=, &bench] {
            CrossEntropyBackward(bench.stream(), logits, targets, rows, vocabulary, 1.0f, nll);
          }};
}

Case GeluCase(GpuBench& bench) {
  const size_t count = bench.scale().tokens * bench.scale().columns * 4;
  const float* x = bench.Floats(count);
  float* y = bench.Take<float>(count);
  return {"Gelu", Text("%zu numbers", count), static_cast<double>(count * 8), 0,
          [=, &bench] { Gelu(bench.stream(), x, count, y); }};
}

struct AttentionMemory {
  AttentionSaved saved;
  float* out;
  float* log_sums;
  double flops;  // of one product of all queries with the keys not behind the diagonal
  double bytes;  // of qkv and out
  std::string shape;
};

AttentionMemory MakeAttention(GpuBench& bench) {
  const AttentionShape& shape = bench.scale().attention;
  AttentionMemory memory;
  memory.out = bench.Take<float>(shape.tokens() * shape.width());
  memory.log_sums = bench.Take<float>(shape.tokens() * shape.heads);
  memory.saved = {bench.Floats(shape.tokens() * 3 * shape.width()), memory.out, memory.log_sums};
  memory.flops =
      static_cast<double>(shape.tokens() * shape.width()) * static_cast<double>(shape.length + 1);
  memory.bytes = static_cast<double>(shape.tokens() * shape.width() * 4 * sizeof(float));
  memory.shape = Text("%zu x %zu tokens, %zu heads x %zu", shape.sequences, shape.length,
                      shape.heads, shape.head_dim);
  AttentionForward(bench.stream(), shape, memory.saved.qkv, memory.out, memory.log_sums);
  return memory;
}

Case AttentionForwardCase(GpuBench& bench) {
  const AttentionMemory memory = MakeAttention(bench);
  return {"AttentionForward", memory.shape, memory.bytes, 2 * memory.flops, [=, &bench] {
            AttentionForward(bench.stream(), bench.scale().attention, memory.saved.qkv, memory.out,
                             memory.log_sums);
          }};
}

Case AttentionBackwardCase(GpuBench& bench) {  // five products: scores again, dv, dp, dq, dk
  const AttentionMemory memory = MakeAttention(bench);
  const AttentionShape& shape = bench.scale().attention;
  const AttentionGradient gradient = {bench.Floats(shape.tokens() * shape.width()),
                                      bench.Take<float>(shape.tokens() * shape.heads),
                                      bench.Take<float>(shape.tokens() * 3 * shape.width())};
  return {"AttentionBackward", memory.shape, 2 * memory.bytes, 5 * memory.flops, [=, &bench] {
            AttentionBackward(bench.stream(), bench.scale().attention, memory.saved, gradient);
          }};
}

/// Every line of the table. A kernel that is added goes here.
std::vector<std::function<Case(GpuBench&)>> AllCases(const Scale& scale) {
  std::vector<std::function<Case(GpuBench&)>> cases;
  for (const size_t tau : {scale.small_tau, scale.large_tau}) {
    cases.push_back([tau](GpuBench& bench) { return GatherReduceCase(bench, tau); });
    cases.push_back([tau](GpuBench& bench) { return PairDotsCase(bench, tau); });
    cases.push_back([tau](GpuBench& bench) { return GroupByRowCase(bench, tau); });
    for (const Buckets buckets : {Buckets::kUniform, Buckets::kHalfAlike}) {
      cases.push_back([=](GpuBench& bench) { return RowGradientsCase(bench, tau, buckets); });
    }
  }
  for (const auto& plain :
       {ScatterRowsCase, NormForwardCase, NormBackwardCase, HashForwardCase, HashBackwardCase,
        GeluCase, CrossEntropyBackwardCase, AttentionForwardCase, AttentionBackwardCase}) {
    cases.push_back(plain);
  }
  return cases;
}

void PrintTable(GpuBench& bench, const GpuLimits& limits) {
  std::printf("%-21s %-46s %10s %9s %8s %8s %8s %8s\n", "kernel", "shape", "us", "MB", "GB/s",
              "of copy", "TFLOP/s", "of TF32");
  for (const auto& make : AllCases(bench.scale())) {
    const Case now = make(bench);
    const double seconds = bench.Microseconds(now.run) / 1e6;
    const double rate = now.bytes / seconds;
    std::printf("%-21s %-46s %10.1f %9.1f %8.0f %7.0f%%", now.name.c_str(), now.shape.c_str(),
                seconds * 1e6, now.bytes / 1e6, rate / 1e9, 100 * rate / limits.copy_bytes_s);
    if (now.flops > 0) {
      const double flops_s = now.flops / seconds;
      std::printf(" %8.1f %7.0f%%", flops_s / 1e12, 100 * flops_s / limits.tf32_flops_s);
    }
    std::printf("\n");
    std::fflush(stdout);
    bench.FreeMemory();
  }
}

int Main(int argc, char** argv) {
  const bool quick = argc == 2 && std::strcmp(argv[1], "--quick") == 0;
  if (argc > 1 && !quick) {
    std::fprintf(stderr, "usage: gpu_kernels_bench [--quick]\n");
    return 2;
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("gpu_kernels_bench: skipped, there is no GPU here\n");
    return 77;
  }
  try {
    GpuBench bench(quick ? kQuickScale : Scale());
    const GpuLimits limits = PrintLimits(bench);
    PrintTable(bench, limits);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gpu_kernels_bench: %s\n", error.what());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace mf::cuda

int main(int argc, char** argv) { return mf::cuda::Main(argc, argv); }
