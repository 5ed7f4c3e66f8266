// One table from the bare kernels to training, every number beside another one of the same run:
// kernels beside the machine's reads of random rows, the same layer through an embedded server
// beside the bare kernel, a small request beside a hand-over between threads, nano beside its dense
// baseline.
//
//   system_bench --config deploy/configs/nano.toml [--steps N] [--repeats N] [--json FILE]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "common/base/check.h"
#include "common/base/logging.h"
#include "common/base/mutex.h"
#include "common/base/random.h"
#include "tests/bench/support/flags.h"
#include "tests/bench/support/layer.h"
#include "tests/bench/support/machine.h"
#include "tests/bench/support/report.h"
#include "tests/bench/support/served_layer.h"
#include "worker/config/config.h"
#include "worker/embedded/embedded.h"
#include "worker/train/train_run.h"

namespace mf {
namespace {

struct Options {
  std::string config, json;
  int64_t steps = 24;
  int repeats = 7;
};

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// An embedded server and a layer on it.
struct Embedded {
  explicit Embedded(const LayerShape& shape)
      : servers(Must(EmbeddedServers::Start(
            context, {.shards = 1, .threads = 1, .memory_bytes = uint64_t{1} << 40}))),
        layer(context, servers->addresses()[0], shape) {}
  TransportContext context;
  std::unique_ptr<EmbeddedServers> servers;
  ServedLayer layer;
};

/// Seconds for a hand-over to another thread and back, as a request needs at least twice.
double HandOver(int turns) {
  Mutex mutex;
  ConditionVariable changed;
  int turn = 0;
  const auto play = [&](int self) {
    MutexLock lock(mutex);
    while (turn < 2 * turns) {
      while (turn % 2 != self && turn < 2 * turns) changed.Wait(mutex);
      ++turn;
      changed.NotifyOne();
    }
  };
  const auto start = std::chrono::steady_clock::now();
  std::thread other(play, 1);
  play(0);
  other.join();
  return SecondsSince(start) / turns;
}

/// Bare kernels and the same through a server, in turns, so that a busy moment hits both; the
/// fastest of each counts.
void PrintLayer(ServedLayer& served, BenchLayer& layer, const std::string& where,
                const Options& options, Report& report) {
  constexpr int kCalls = 8;
  constexpr size_t kInFlight = 2;  // as in training
  const WireBatch batch = served.Batch(layer, layer.shape.tokens);
  const LayerShape& shape = layer.shape;
  double machine = 0, forward = 1e9, backward = 1e9, served_forward = 1e9, served_backward = 1e9;
  for (int i = 0; i < options.repeats; ++i) {
    machine = std::max(machine, RandomReadRate(shape.table_bytes(), shape.columns, 1));
    forward = std::min(forward, Fastest(1, [&] { layer.Forward(); }));
    served_forward = std::min(served_forward, served.Forward(batch, kCalls, kInFlight));
    backward = std::min(backward, Fastest(1, [&] { layer.Backward(); }));
    served_backward = std::min(served_backward, served.Backward(batch, kCalls, kInFlight));
  }
  const auto rate = [&](double seconds) { return shape.read_bytes() / seconds / kGiga; };
  report.Line("machine: random rows of " + where, machine, "GB/s", {},
              "loads and adds, one core, order unknown to the caches");
  const auto kernel = [&](const std::string& pass, double seconds, const std::string& note) {
    report.Line("kernel: " + pass + ", " + where, rate(seconds), "GB/s",
                {{"the machine's random rows", rate(seconds) / machine}}, note);
  };
  const auto server = [&](const std::string& pass, double seconds, double bare) {
    const std::string name = "server: " + pass + ", " + where;
    report.Line(name, static_cast<double>(shape.tokens) / seconds, "tokens/s",
                {{"the bare kernel", bare / seconds}}, "inproc, 1 server thread, 2 in flight");
  };
  kernel("forward", forward, "above 1: a table at a time stays in cache");
  kernel("backward", backward, "dots, grouping, row gradients");
  server("forward", served_forward, forward);
  server("backward", served_backward, backward);
}

void PrintLayers(const Options& options, Report& report) {
  {
    const LayerShape shape{.tables = 64, .rows = 256, .columns = 512, .tokens = 1024};
    BenchLayer layer(shape);
    Embedded served(shape);
    PrintLayer(served.layer, layer, "32 MiB", options, report);
    const double hand_over = HandOver(5000);
    const double round_trip = served.layer.RoundTrip(layer, 2000);
    report.Line("machine: to another thread and back", hand_over * 1e6, "us", {},
                "condition variable");
    report.Line("server: round trip of 1 token", round_trip * 1e6, "us",
                {{"to another thread and back", round_trip / hand_over}},
                "a request needs two such trips");
  }
  const LayerShape shape{.tables = 32, .rows = 4096, .columns = 384, .tokens = 1024};
  BenchLayer layer(shape);
  Embedded served(shape);
  PrintLayer(served.layer, layer, "192 MiB", options, report);
}

/// Training speed: the median of the steps' own, as metrics.jsonl has them.
double TrainingRate(const Options& options, const std::string& folder, const std::string& data,
                    const std::string& projection) {
  TrainOptions train;
  train.config = Must(LoadConfig(
      options.config, {"model.projection=" + projection,
                       "train.steps=" + std::to_string(options.steps), "train.eval_batches=1"}));
  train.data = data;
  train.out = folder + "/" + projection;
  train.threads = train.server_threads =
      static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  std::filesystem::create_directories(train.out);
  MustBeOk(Train(train));
  std::ifstream lines(train.out + "/metrics.jsonl");
  std::vector<double> rates;
  const auto number = [](const std::string& line, const std::string& key) {
    const size_t found = line.find("\"" + key + "\":");
    MF_CHECK(found != std::string::npos);
    return std::atof(line.c_str() + found + key.size() + 3);
  };
  for (std::string line; std::getline(lines, line);) {
    rates.push_back(number(line, "tokens_per_second"));
  }
  MF_CHECK(!rates.empty());
  std::nth_element(rates.begin(), rates.begin() + static_cast<ptrdiff_t>(rates.size() / 2),
                   rates.end());
  return rates[rates.size() / 2];
}

void PrintTraining(const Options& options, Report& report) {
  std::string folder = std::filesystem::temp_directory_path() / "system_bench-XXXXXX";
  MF_CHECK(mkdtemp(folder.data()) != nullptr);
  const std::string data = folder + "/data.txt";
  {
    std::ofstream text(data);
    for (uint64_t i = 0; i < 300000; ++i) {
      text << static_cast<char>('a' + RandomBelow(RandomKey(1, i), 26));
    }
  }
  double dense = 0, memory = 0;
  for (int turn = 0; turn < 2; ++turn) {  // in turns, so that a busy moment hits both
    dense = std::max(dense, TrainingRate(options, folder, data, "dense"));
    memory = std::max(memory, TrainingRate(options, folder, data, "memory"));
  }
  std::filesystem::remove_all(folder);
  report.Line("training: nano, projection = dense", dense, "tokens/s", {},
              "all cores, 1 embedded server");
  report.Line("training: nano, memory layers", memory, "tokens/s",
              {{"projection = dense", memory / dense}}, "same tokens, same servers");
}

Options Parse(int argc, char** argv) {
  const std::string usage = "system_bench --config FILE [--steps N] [--repeats N] [--json FILE]";
  Options options;
  ParseFlags(argc, argv, usage,
             {{"--config", &options.config},
              {"--steps", &options.steps},
              {"--repeats", &options.repeats},
              {"--json", &options.json}});
  if (options.config.empty() || options.steps < 1 || options.repeats < 1) EndWithUsage(usage);
  return options;
}

}  // namespace
}  // namespace mf

int main(int argc, char** argv) {
  const mf::Options options = mf::Parse(argc, argv);
  std::printf(
      "GB/s: bytes of all rows that a batch reads, once, by the time. x: times what is on the "
      "right.\n");
  mf::MustBeOk(mf::SetUpLogging("error"));
  mf::Report report(options.json);
  mf::PrintLayers(options, report);
  mf::PrintTraining(options, report);
  return 0;
}
