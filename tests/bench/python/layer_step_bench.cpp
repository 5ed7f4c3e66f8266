// Steps of one memory layer from C++, for tests/bench/python/layer_bench.py: what a worker
// exchanges for the same shapes. Prints the milliseconds of every step.
//
//   layer_step_bench ADDRESS,ADDRESS [--width N] [--tau N] [--tokens N] [--steps N]
#include <chrono>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "common/base/address.h"
#include "common/client/session.h"
#include "tests/bench/support/flags.h"
#include "worker/compute/cpu/hash.h"

namespace mf {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  std::string servers;
  int64_t width = 512;
  int64_t tau = 8;
  int64_t tokens = 2048;
  int64_t steps = 30;
};

RunDescription Describe(const Options& options) {
  RunDescription run{.about = "layer_step_bench", .data = "made"};
  TensorSpec& tables = run.tensors.emplace_back();
  tables.name = "layer.tables";
  tables.kind = TensorKind::kMemory;
  tables.tables = options.width / options.tau;
  tables.rows = int64_t{1} << options.tau;
  tables.columns = options.width;
  tables.shape = {tables.tables, tables.rows, tables.columns};
  tables.init = Init::kNormal;
  tables.init_value = 0.03;
  tables.mode = ExchangeMode::kPushdown;
  tables.optimizer = {.beta2 = 0.999, .sparse_update = SparseUpdate::kLazy};
  run.rules.steps = options.steps;
  run.rules.micro_batches = 1;
  run.rules.tokens_per_micro_batch = options.tokens;
  run.rules.clip = 0;
  run.rules.eval_every = 0;
  run.rules.snapshots = {.every_steps = 0, .every_minutes = 0, .keep = 1};
  return run;
}

Status Train(const Options& options) {
  const RunDescription run = Describe(options);
  MF_ASSIGN_OR_RETURN(const auto addresses, ParseServers("servers", {options.servers}));
  MF_ASSIGN_OR_RETURN(const auto session,
                      Session::Connect({.addresses = addresses, .run = run, .log = "error"}));
  MF_RETURN_IF_ERROR(session->Join());
  const auto lane = session->NewLane();
  const TensorSpec& tables = run.tensors[0];
  const auto tokens = static_cast<size_t>(options.tokens);
  const size_t numbers = tokens * static_cast<size_t>(options.width);
  const HashParameters hash{.tables = static_cast<size_t>(tables.tables),
                            .bits = static_cast<size_t>(options.tau),
                            .index_bytes = tables.index_bytes()};
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(numbers), y(numbers), dweights(hash.pairs() * tokens), dx(numbers);
  for (float& number : x) number = normal(random);
  bool first = true;
  auto last = Clock::now();
  for (;;) {
    MF_ASSIGN_OR_RETURN(const Session::Work work, lane->Next());
    if (work.kind == Session::Work::Kind::kFinished) return Status::Ok();
    if (work.kind == Session::Work::Kind::kMicroBatch) {
      const Hashes hashes = MakeHashes(hash, tokens);
      HashRows(hash, x.data(), 0, tokens, hashes);
      MF_RETURN_IF_ERROR(
          session->tables()
              .Forward(work.open, tables, tokens, hashes.indices, hashes.weights, y.data())
              .Wait());
      const Buffer dy(numbers * sizeof(float));
      for (size_t i = 0; i < numbers; ++i) {
        dy.as<float>()[i] = 2 * y[i] / static_cast<float>(numbers);  // of the mean of squares
      }
      MF_RETURN_IF_ERROR(session->tables()
                             .Backward(work.open, work.micro_batch, tables, tokens, hashes.indices,
                                       hashes.weights, dy, dweights.data())
                             .Wait());
      HashBackwardRows(hash, x.data(), 0, tokens, tokens, dweights.data(), dx.data());
    }
    lane->Done(0.0);
    if (work.kind != Session::Work::Kind::kMicroBatch) continue;
    const auto now = Clock::now();
    // From one end to the next: with the update and the next lease.
    if (!first)
      std::printf("%.4f\n", std::chrono::duration<double, std::milli>(now - last).count());
    first = false;
    last = now;
  }
}

}  // namespace
}  // namespace mf

int main(int argc, char** argv) {
  const std::string usage =
      "layer_step_bench ADDRESS,ADDRESS [--width N] [--tau N] [--tokens N] [--steps N]";
  if (argc < 2) mf::EndWithUsage(usage);
  mf::Options options{.servers = argv[1]};
  mf::ParseFlags(argc - 1, argv + 1, usage,
                 {{"--width", &options.width},
                  {"--tau", &options.tau},
                  {"--tokens", &options.tokens},
                  {"--steps", &options.steps}});
  const mf::Status status = mf::Train(options);
  if (!status.ok()) std::fprintf(stderr, "error: %s\n", status.message().c_str());
  return status.exit_code();
}
