// One table from the bare kernels to training, every number beside another one of the same run:
// kernels beside the machine's reads of random rows, the same layer through an embedded server
// beside the bare kernel, a small request beside a hand-over between threads, nano beside its dense
// baseline.
//
//   system_bench --config deploy/configs/nano.toml [--steps N] [--repeats N]
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "common/check.h"
#include "common/client.h"
#include "common/config.h"
#include "common/random.h"
#include "common/table_client.h"
#include "tests/bench/layer.h"
#include "tests/bench/machine.h"
#include "worker/embedded.h"
#include "worker/train_run.h"

namespace mf {
namespace {

struct Options {
  std::string config;
  int64_t steps = 24;
  int repeats = 7;
};

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void Line(const std::string& what, double value, const char* unit, double ratio,
          const std::string& compared_with) {
  std::printf("%-46s %10.1f %-11s", what.c_str(), value, unit);
  if (ratio > 0) std::printf(" %6.2f x ", ratio);
  std::printf("%s%s\n", ratio > 0 ? "" : "          ", compared_with.c_str());
  std::fflush(stdout);
}

/// Ends the program: a benchmark that can not run has no other result.
template <class T>
T Must(Result<T> result) {
  if (!result.ok()) {
    std::fprintf(stderr, "system_bench: %s\n", result.status().message().c_str());
    std::exit(1);
  }
  return std::move(*result);
}
void Must(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "system_bench: %s\n", status.message().c_str());
  std::exit(1);
}

/// An embedded server in step 1 of a run whose layer M2 has a given shape, and a client.
class ServedLayer {
 public:
  explicit ServedLayer(const LayerShape& shape)
      : shape_(shape), config_(ConfigOf(shape)), tensors_(TensorsOf(config_)) {
    servers_ = Must(EmbeddedServers::Start(
        context_, {.shards = 1, .threads = 1, .memory_bytes = uint64_t{1} << 40}));
    client_ = std::make_unique<Client>(Must(ConnectZmq(context_, servers_->addresses())),
                                       servers_->addresses(), Client::Options{});
    tables_ = std::make_unique<TableClient>(*client_, config_, tensors_);
    tensor_ = FindTensor(tensors_, "blocks.0.m2.tables");
    MF_CHECK(tensor_ != nullptr && tensor_->rows == static_cast<int64_t>(shape.rows) &&
             tensor_->columns == static_cast<int64_t>(shape.columns));
    Request hello;
    hello.op = Op::kHello;
    hello.shards = 1;
    hello.run_id = "bench";
    hello.text = CanonicalJson(config_);
    client_->SetSession(0, Must(client_->Call(0, hello).get())[0].session);
    Request rollback;
    rollback.op = Op::kRollback;
    rollback.epoch = at_.epoch;
    Must(client_->Call(0, rollback).get());
  }

  /// Seconds a forward of `layer`'s first `tokens` tokens takes, two in flight as in training.
  double Forward(const BenchLayer& layer, size_t tokens, int calls) {
    const auto [indices, weights] = Frames(layer, tokens);
    std::vector<Buffer> y(2);
    for (Buffer& buffer : y) buffer = Buffer(tokens * shape_.columns * sizeof(float));
    return Timed(calls, [&](int call) {
      return tables_->Forward(at_, Access::kTraining, *tensor_, tokens, indices, weights,
                              y[static_cast<size_t>(call % 2)].as<float>());
    });
  }
  double Backward(const BenchLayer& layer, int calls) {
    const auto [indices, weights] = Frames(layer, shape_.tokens);
    std::vector<float> dweights[2];
    for (auto& buffer : dweights) buffer.resize(shape_.pairs());
    return Timed(calls, [&](int call) {
      return tables_->Backward(at_, micro_batch_++, *tensor_, shape_.tokens, indices, weights,
                               layer.dy.get(), dweights[call % 2].data());
    });
  }
  /// Seconds from a request of one token to its answer, nothing else in flight: the median.
  double RoundTrip(const BenchLayer& layer, int calls) {
    const auto [indices, weights] = Frames(layer, 1);
    std::vector<float> y(shape_.columns);
    std::vector<double> seconds;
    for (int call = 0; call < calls; ++call) {
      const auto start = std::chrono::steady_clock::now();
      Must(
          tables_->Forward(at_, Access::kTraining, *tensor_, 1, indices, weights, y.data()).Wait());
      seconds.push_back(SecondsSince(start));
    }
    std::nth_element(seconds.begin(), seconds.begin() + calls / 2, seconds.end());
    return seconds[static_cast<size_t>(calls / 2)];
  }

 private:
  static Config ConfigOf(const LayerShape& shape) {
    Config config;
    config.model.layers = 1;
    config.model.d = static_cast<int64_t>(shape.columns);
    config.model.K = static_cast<int64_t>(shape.tables);
    config.model.tau = config.model.d / config.model.K;
    config.model.expand_bits = 0;
    config.model.sequence = static_cast<int64_t>(shape.tokens);
    config.train.batch = 1;
    config.train.micro_batches = 65536;  // no backward is a repeat
    config.train.optimizer = OptimizerKind::kSgd;
    config.exchange.mode = ExchangeMode::kPushdown;
    Must(CheckConfig(config));
    return config;
  }

  struct PairFrames {
    Frame indices, weights;
  };
  PairFrames Frames(const BenchLayer& layer, size_t tokens) const {
    const size_t pairs = shape_.tables * tokens;
    const size_t index_bytes = static_cast<size_t>(tensor_->index_bytes());
    const Buffer indices(pairs * index_bytes), weights(pairs * sizeof(float));
    for (size_t i = 0; i < pairs; ++i) {
      const size_t from = i / tokens * shape_.tokens + i % tokens;
      // Little-endian: the low bytes come first.
      std::memcpy(indices.data() + i * index_bytes, &layer.buckets[from], index_bytes);
      weights.as<float>()[i] = layer.weights[from];
    }
    return {indices, weights};
  }

  /// Seconds a call, two in flight. What a server does after its last answer counts, too: the
  /// status that is asked for at the end is answered after it.
  template <class Start>
  double Timed(int calls, const Start& start_call) {
    const auto start = std::chrono::steady_clock::now();
    std::deque<Pending> open;
    for (int call = 0; call < calls; ++call) {
      if (open.size() == 2) {
        Must(open.front().Wait());
        open.pop_front();
      }
      open.push_back(start_call(call));
    }
    for (Pending& pending : open) Must(pending.Wait());
    Request status;
    status.op = Op::kStatus;
    Must(client_->Call(0, status).get());
    return SecondsSince(start) / calls;
  }

  const LayerShape shape_;
  const Config config_;
  const std::vector<TensorSpec> tensors_;
  const TensorSpec* tensor_ = nullptr;
  const StepRef at_{uint64_t{1} << 32 | 1, 1};
  uint32_t micro_batch_ = 0;
  TransportContext context_;
  std::unique_ptr<EmbeddedServers> servers_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<TableClient> tables_;
};

/// Seconds for a hand-over to another thread and back, as a request needs at least twice.
double HandOver(int turns) {
  std::mutex mutex;
  std::condition_variable changed;
  int turn = 0;
  const auto play = [&](int self) {
    std::unique_lock lock(mutex);
    while (turn < 2 * turns) {
      changed.wait(lock, [&] { return turn % 2 == self || turn >= 2 * turns; });
      ++turn;
      changed.notify_one();
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
                const Options& options) {
  constexpr int kCalls = 8;
  const LayerShape& shape = layer.shape;
  double machine = 0, forward = 1e9, backward = 1e9, served_forward = 1e9, served_backward = 1e9;
  for (int i = 0; i < options.repeats; ++i) {
    machine = std::max(machine, RandomReadRate(shape.table_bytes(), shape.columns, 1));
    forward = std::min(forward, Fastest(1, [&] { layer.Forward(); }));
    served_forward = std::min(served_forward, served.Forward(layer, shape.tokens, kCalls));
    backward = std::min(backward, Fastest(1, [&] {
                          layer.ExactDots();
                          for (size_t k = 0; k < shape.tables; ++k) layer.Group(k);
                          layer.RowGradients(shape.columns);
                        }));
    served_backward = std::min(served_backward, served.Backward(layer, kCalls));
  }
  const auto rate = [&](double seconds) { return shape.read_bytes() / seconds / kGiga; };
  Line("machine: random rows of " + where, machine, "GB/s", 0,
       "loads and adds, one core, order unknown to the caches");
  const auto kernel = [&](const std::string& pass, double seconds, const std::string& note) {
    Line("kernel: " + pass + ", " + where, rate(seconds), "GB/s", rate(seconds) / machine,
         "the machine's random rows" + note);
  };
  const auto server = [&](const std::string& pass, double seconds, double bare) {
    const std::string name = "server: " + pass + ", " + where;
    Line(name, rate(seconds), "GB/s", bare / seconds,
         "the bare kernel (inproc, 1 server thread, 2 in flight)");
    Line(name, static_cast<double>(shape.tokens) / seconds, "tokens/s", bare / seconds,
         "the bare kernel, tokens/s of one layer");
  };
  kernel("forward", forward, " (above 1: a table at a time stays in cache)");
  kernel("backward", backward, " (dots, grouping, row gradients)");
  server("forward", served_forward, forward);
  server("backward", served_backward, backward);
}

void PrintLayers(const Options& options) {
  {
    const LayerShape shape{.tables = 64, .rows = 256, .columns = 512, .tokens = 1024};
    BenchLayer layer(shape);
    ServedLayer served(shape);
    PrintLayer(served, layer, "32 MiB", options);
    const double hand_over = HandOver(5000);
    const double round_trip = served.RoundTrip(layer, 2000);
    Line("machine: to another thread and back", hand_over * 1e6, "us", 0, "condition variable");
    Line("server: round trip of 1 token", round_trip * 1e6, "us", round_trip / hand_over,
         "to another thread and back (a request needs two such trips)");
  }
  const LayerShape shape{.tables = 32, .rows = 4096, .columns = 384, .tokens = 1024};
  BenchLayer layer(shape);
  ServedLayer served(shape);
  PrintLayer(served, layer, "192 MiB", options);
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
  Must(Train(train));
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

void PrintTraining(const Options& options) {
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
  Line("training: nano, projection = dense", dense, "tokens/s", 0, "all cores, 1 embedded server");
  Line("training: nano, memory layers", memory, "tokens/s", memory / dense,
       "projection = dense, same tokens, same servers");
}

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--config") options.config = argv[i + 1];
    if (flag == "--steps") options.steps = std::atoll(argv[i + 1]);
    if (flag == "--repeats") options.repeats = std::atoi(argv[i + 1]);
  }
  if (options.config.empty() || options.steps < 1 || options.repeats < 1) {
    std::fprintf(stderr, "usage: system_bench --config FILE [--steps N] [--repeats N]\n");
    std::exit(2);
  }
  return options;
}

}  // namespace
}  // namespace mf

int main(int argc, char** argv) {
  const mf::Options options = mf::Parse(argc, argv);
  std::printf(
      "GB/s: bytes of all rows that a batch reads, once, by the time. x: times what is on the "
      "right.\n");
  mf::PrintLayers(options);
  mf::PrintTraining(options);
  return 0;
}
