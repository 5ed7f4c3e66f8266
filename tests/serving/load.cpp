// Reads a run at its servers as fast as they answer, and looks at every number. The run is that of
// training.py: after s steps each number of each row is -s.
//   serving_load --servers A,B [--requests N] [--threads N] [--refresh N] [--rate N]
// --rate N: so many a second over all threads; a request's time counts from when it was due, so
// that one that waits for the one before is seen. Without it each thread asks again when it is
// answered. Prints one table. Exit code 1 if a request was refused, or an answer was not of one
// whole state.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "common/base/buffer.h"
#include "common/client/reader.h"
#include "common/run/keyed_rows.h"

namespace mf {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kKeys = 400;  // of training.py
constexpr size_t kKeysAtOnce = 32, kTokens = 16;

struct Flags {
  std::vector<std::string> servers;
  uint64_t requests = 20'000, refresh = 50;
  int threads = 2;
  double rate = 0;
};

/// One thread's part.
struct Outcome {
  Status status;
  std::vector<double> seconds;  // of each request
  std::set<uint64_t> steps;     // that were read
  uint64_t moved = 0;           // requests that came back of another step than they began with
};

Status CheckAll(const std::vector<float>& values, float due, uint64_t step, const char* what) {
  const auto wrong =
      std::find_if(values.begin(), values.end(), [due](float value) { return value != due; });
  if (wrong == values.end()) return Status::Ok();
  return Status::Failed(std::string(what) + " at step " + std::to_string(step) + ": " +
                        std::to_string(*wrong) + " instead of " + std::to_string(due));
}

class Load {
 public:
  Load(Reader& reader, uint64_t seed) : reader_(reader), random_(seed) {
    for (const TensorSpec& tensor : reader.run().tensors) {
      if (tensor.kind == TensorKind::kKeyed) keyed_ = &tensor;
      if (tensor.kind == TensorKind::kMemory) memory_ = &tensor;
    }
  }

  Status Pull() {
    std::set<uint64_t> rows;
    while (rows.size() < kKeysAtOnce) rows.insert(RowOfKey(random_() % kKeys));
    const std::vector<uint64_t> list(rows.begin(), rows.end());
    std::vector<float> values(list.size() * static_cast<size_t>(keyed_->columns));
    MF_RETURN_IF_ERROR(reader_.AtOneState(
        [&] { return reader_.tables().Pull(reader_.at(), *keyed_, list, values.data()).Wait(); }));
    const uint64_t step = reader_.at().step;
    return CheckAll(values, -static_cast<float>(step), step, "rows");
  }

  Status Forward() {
    const auto tables = static_cast<size_t>(memory_->tables);
    const Buffer indices(tables * kTokens), weights(tables * kTokens * sizeof(float));
    for (size_t i = 0; i < tables * kTokens; ++i) {
      indices.as<uint8_t>()[i] =
          static_cast<uint8_t>(random_() % static_cast<uint64_t>(memory_->rows));
      weights.as<float>()[i] = 1;
    }
    std::vector<float> y(kTokens * static_cast<size_t>(memory_->columns));
    MF_RETURN_IF_ERROR(reader_.AtOneState([&] {
      return reader_.tables()
          .Forward(reader_.at(), *memory_, kTokens, indices, weights, y.data())
          .Wait();
    }));
    const uint64_t step = reader_.at().step;
    return CheckAll(y, -static_cast<float>(step * tables), step, "sums");
  }

 private:
  Reader& reader_;
  std::mt19937_64 random_;
  const TensorSpec* keyed_ = nullptr;
  const TensorSpec* memory_ = nullptr;
};

Status Run(const Flags& flags, uint64_t number, Outcome* outcome) {
  MF_ASSIGN_OR_RETURN(const auto reader, Reader::Open({.servers = flags.servers}));
  Load load(*reader, number);
  outcome->seconds.reserve(flags.requests);
  const auto first = Clock::now();
  for (uint64_t i = number; i < flags.requests; i += static_cast<uint64_t>(flags.threads)) {
    if (flags.refresh != 0 && i % flags.refresh < static_cast<uint64_t>(flags.threads)) {
      MF_RETURN_IF_ERROR(reader->Refresh().status());
    }
    const uint64_t before = reader->at().step;
    auto begin = Clock::now();
    if (flags.rate > 0) {
      begin = first + std::chrono::duration_cast<Clock::duration>(
                          std::chrono::duration<double>(static_cast<double>(i) / flags.rate));
      std::this_thread::sleep_until(begin);
    }
    MF_RETURN_IF_ERROR(i % 4 == 3 ? load.Forward() : load.Pull());
    outcome->seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
    outcome->steps.insert(reader->at().step);
    outcome->moved += reader->at().step != before;
  }
  return Status::Ok();
}

int Main(const Flags& flags) {
  std::vector<Outcome> outcomes(static_cast<size_t>(flags.threads));
  std::vector<std::thread> threads;
  const auto begin = Clock::now();
  for (size_t i = 0; i < outcomes.size(); ++i) {
    threads.emplace_back([&, i] { outcomes[i].status = Run(flags, i, &outcomes[i]); });
  }
  for (std::thread& thread : threads) thread.join();
  const double all = std::chrono::duration<double>(Clock::now() - begin).count();
  Outcome sum;
  for (Outcome& outcome : outcomes) {
    if (sum.status.ok()) sum.status = outcome.status;
    sum.seconds.insert(sum.seconds.end(), outcome.seconds.begin(), outcome.seconds.end());
    sum.steps.insert(outcome.steps.begin(), outcome.steps.end());
    sum.moved += outcome.moved;
  }
  if (sum.seconds.empty()) sum.seconds.push_back(0);
  std::sort(sum.seconds.begin(), sum.seconds.end());
  const auto part = [&sum](double p) {
    return 1e3 * sum.seconds[static_cast<size_t>(p * static_cast<double>(sum.seconds.size() - 1))];
  };
  std::printf(
      "| requests | threads | requests/s | steps read | moved | p50 ms | p99 ms | most ms |\n"
      "|---|---|---|---|---|---|---|---|\n"
      "| %zu | %d | %.0f | %zu | %llu | %.3f | %.3f | %.1f |\n",
      sum.seconds.size(), flags.threads, static_cast<double>(sum.seconds.size()) / all,
      sum.steps.size(), static_cast<unsigned long long>(sum.moved), part(0.5), part(0.99), part(1));
  if (sum.status.ok()) return 0;
  std::fprintf(stderr, "serving_load: %s\n", sum.status.message().c_str());
  return 1;
}

}  // namespace
}  // namespace mf

int main(int argc, char** argv) {
  CLI::App app("Reads a run of training.py, and looks at every number.", "serving_load");
  mf::Flags flags;
  app.add_option("--servers", flags.servers)->delimiter(',')->required();
  app.add_option("--requests", flags.requests);
  app.add_option("--threads", flags.threads)->check(CLI::Range(1, 64));
  app.add_option("--refresh", flags.refresh, "Requests between looks for a newer state; 0: none");
  app.add_option("--rate", flags.rate, "Requests a second; 0: as many as are answered");
  CLI11_PARSE(app, argc, argv);
  return mf::Main(flags);
}
