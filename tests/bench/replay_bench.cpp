// The exchange of training without its compute: what micro-batches of a run's step 4 send to a
// server is recorded first, with servers inside this process; then lanes send it to a fresh server,
// layer by layer, forward and backward, and wait for the answers, which nobody looks at. Prints the
// seconds that N micro-batches take.
//
//   replay_bench --config FILE --data FILE --pserver ADDRESS [--in-flight N] [--micro-batches N]
//
// tests/bench/overlap_bench.py sets the rate of the link to that server.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/base/logging.h"
#include "common/base/thread_pool.h"
#include "common/client/client.h"
#include "common/client/table_client.h"
#include "tests/bench/support/machine.h"
#include "tests/bench/support/served_layer.h"
#include "tests/support/join.h"
#include "worker/compute/cpu_compute.h"
#include "worker/config/config.h"
#include "worker/config/tensors.h"
#include "worker/data/data.h"
#include "worker/embedded/embedded.h"
#include "worker/exchange/remote_exchange.h"
#include "worker/train/trainer.h"

namespace mf {
namespace {

constexpr uint64_t kRecordedStep = 4;  // the first ones meet other buckets

struct Options {
  std::string config, data, pserver;
  int in_flight = 4, micro_batches = 16;
};

/// What a micro-batch sent for one memory layer, and where the answers go.
struct LayerRequests {
  const TensorSpec* tensor = nullptr;
  Hashes hashes;
  Buffer dy;
  std::vector<float> y, dweights;
};
using Requests = std::vector<LayerRequests>;  // of a micro-batch, in forward order

Buffer Copy(const Buffer& from) {
  Buffer to(from.size());
  std::memcpy(to.data(), from.data(), from.size());
  return to;
}

/// Keeps what goes through an exchange.
class Recorder final : public Exchange {
 public:
  Recorder(Exchange& inner, Requests* requests) : inner_(inner), requests_(*requests) {}
  Status Forward(const TensorSpec& tensor, const Hashes& hashes, float* y) override {
    LayerRequests& layer = requests_.emplace_back();
    layer.tensor = &tensor;
    layer.hashes = hashes;
    layer.hashes.indices = Copy(hashes.indices);
    layer.hashes.weights = Copy(hashes.weights);
    layer.y.resize(hashes.tokens * static_cast<size_t>(tensor.columns));
    layer.dweights.resize(hashes.pairs * hashes.tokens);
    return inner_.Forward(tensor, hashes, y);
  }
  Status Backward(const TensorSpec& tensor, const Hashes& hashes, const Buffer& dy,
                  float* dweights) override {
    for (LayerRequests& layer : requests_) {
      if (layer.tensor == &tensor) layer.dy = Copy(dy);
    }
    return inner_.Backward(tensor, hashes, dy, dweights);
  }

 private:
  Exchange& inner_;
  Requests& requests_;
};

/// The first `micro_batches` of the last of some steps. `run` outlives what is returned.
std::vector<Requests> Record(const Options& options, const Config& config,
                             const RunDescription& run, int micro_batches) {
  TransportContext context;
  const auto servers = Must(EmbeddedServers::Start(
      context, {.shards = 1, .threads = 1, .memory_bytes = uint64_t{1} << 40}));
  const auto data = Must(TokenSource::Open(config, options.data));
  Client client(Must(ConnectZmq(context, servers->addresses())), servers->addresses(), {});
  std::vector<Requests> recorded(static_cast<size_t>(micro_batches));
  ThreadPool pool(1);
  CpuCompute compute(config, run.tensors, pool);
  Trainer trainer(config, run, *data, client, compute, pool,
                  {.on_step = {},
                   .wrap_exchange = [&](Exchange& inner, OpenStep at,
                                        uint32_t number) -> std::unique_ptr<Exchange> {
                     if (at.step != kRecordedStep || number >= recorded.size()) return nullptr;
                     recorded[number].clear();  // a micro-batch may be done twice
                     return std::make_unique<Recorder>(inner, &recorded[number]);
                   }});
  MustBeOk(trainer.Join());
  MustBeOk(trainer.Run());
  return recorded;
}

/// A client of a fresh server, in the first step of a run that takes any number of micro-batches.
class Replay {
 public:
  explicit Replay(const Options& options)
      : options_(options),
        config_(Must(LoadConfig(options.config, {"train.micro_batches=65536"}))),
        run_(DescribeRun(config_, "")),
        client_(Must(ConnectZmq(context_, {options.pserver})), {options.pserver}, {}),
        tables_(client_, run_),
        pool_(1) {
    Must(SayHello(client_, run_.Json()));
    MustBeOk(RollBack(client_, at_.before()));
    const Config recorded = Must(LoadConfig(
        options.config, {"train.steps=" + std::to_string(kRecordedStep), "train.eval_batches=1"}));
    recorded_ = DescribeRun(recorded, "");
    lanes_ = Record(options, recorded, recorded_,
                    std::min(options.in_flight, static_cast<int>(recorded.train.micro_batches)));
  }

  /// Seconds that the next `count` micro-batches take.
  double Run(int count) {
    const uint32_t end = next_.load() + static_cast<uint32_t>(count);
    return SecondsOf([&] {
      std::vector<std::thread> threads;
      for (Requests& layers : lanes_) {
        threads.emplace_back([this, &layers, end] {
          for (uint32_t number = next_.fetch_add(1); number < end; number = next_.fetch_add(1)) {
            MicroBatch(number, layers);
          }
        });
      }
      for (std::thread& thread : threads) thread.join();
      next_.store(end);
      AwaitIdle(tables_, at_, *lanes_.front().front().tensor);
    });
  }

 private:
  void MicroBatch(uint32_t number, Requests& layers) {
    ComputeGate gate;  // nothing is computed: lanes do not wait for each other
    MutexLock lock(gate);
    RemoteExchange exchange(tables_, pool_, gate, at_, number);
    for (LayerRequests& layer : layers) {
      MustBeOk(exchange.Forward(*layer.tensor, layer.hashes, layer.y.data()));
    }
    std::for_each(layers.rbegin(), layers.rend(), [&](LayerRequests& layer) {
      MustBeOk(exchange.Backward(*layer.tensor, layer.hashes, layer.dy, layer.dweights.data()));
    });
    MustBeOk(exchange.Finish());
  }

  const Options options_;
  const Config config_;
  const RunDescription run_;
  RunDescription recorded_;  // what the replayed requests are of
  const OpenStep at_{uint64_t{1} << 32 | 1, 1};
  TransportContext context_;
  Client client_;
  TableClient tables_;
  ThreadPool pool_;
  std::vector<Requests> lanes_;  // a micro-batch for each
  std::atomic<uint32_t> next_{0};
};

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--config") options.config = argv[i + 1];
    if (flag == "--data") options.data = argv[i + 1];
    if (flag == "--pserver") options.pserver = argv[i + 1];
    if (flag == "--in-flight") options.in_flight = std::atoi(argv[i + 1]);
    if (flag == "--micro-batches") options.micro_batches = std::atoi(argv[i + 1]);
  }
  if (options.config.empty() || options.data.empty() || options.pserver.empty() ||
      options.in_flight < 1 || options.micro_batches < 1) {
    std::fprintf(stderr,
                 "usage: replay_bench --config FILE --data FILE --pserver ADDRESS [--in-flight N] "
                 "[--micro-batches N]\n");
    std::exit(2);
  }
  return options;
}

}  // namespace
}  // namespace mf

int main(int argc, char** argv) {
  const mf::Options options = mf::Parse(argc, argv);
  mf::MustBeOk(mf::SetUpLogging("error"));
  mf::Replay replay(options);
  replay.Run(options.micro_batches);  // meets new memory
  std::printf("%.6f\n",
              std::min(replay.Run(options.micro_batches), replay.Run(options.micro_batches)));
  return 0;
}
