// What the exchange with a server process over TCP costs, one thread at each end: a remote memory
// layer beside the same kernels called in-process by one thread, the same encrypted, and pushdown
// beside the exchange of rows, with what `exchange.mode = auto` chooses between them.
//
//   exchange_bench --pserver PROGRAM [--repeats N] [--quick 1] [--tau N] [--json FILE]
//                  [--listen HOST] [--wrapper PROGRAM]    as limited_link.sh sets them
//
// --quick 1 leaves out the sweep over table sizes, --tau N all but one size. K = 64, h = 512 where
// memory allows.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "common/base/check.h"
#include "common/base/logging.h"
#include "common/net/keys.h"
#include "tests/bench/support/child.h"
#include "tests/bench/support/flags.h"
#include "tests/bench/support/machine.h"
#include "tests/bench/support/report.h"
#include "tests/bench/support/served_layer.h"

namespace mf {
namespace {

constexpr size_t kTables = 64, kColumns = 512;

struct Options {
  std::string pserver, json;
  std::string listen = "127.0.0.1";  // where the server listens
  std::string wrapper;               // that starts it elsewhere (limited_link.sh)
  int repeats = 5;
  bool quick = false;
  unsigned tau = 0;  // 0: all
};

/// A pserver process with one kernel thread and an empty folder, which holds keys if it shall use
/// some.
class ServerProcess {
 public:
  explicit ServerProcess(const Options& options, bool with_keys = false)
      : folder_(NewFolder(with_keys)), child_(Command(options, folder_, with_keys)) {
    const std::optional<std::string> line = child_.Read();
    const std::string word = "listening ";
    if (!line.has_value() || line->compare(0, word.size(), word) != 0) {
      std::fprintf(stderr, "exchange_bench: %s does not start\n", options.pserver.c_str());
      std::exit(1);
    }
    address_ = line->substr(word.size());
  }
  ~ServerProcess() { std::filesystem::remove_all(folder_); }
  const std::string& address() const { return address_; }
  ClientKeys client_keys() const { return Must(LoadClientKeys(folder_ + "/client")); }

 private:
  static std::string NewFolder(bool with_keys) {
    std::string folder = std::filesystem::temp_directory_path() / "exchange_bench-XXXXXX";
    MF_CHECK(mkdtemp(folder.data()) != nullptr);
    if (with_keys) MustBeOk(WriteClusterKeys(folder, Must(NewKeyPair()), Must(NewKeyPair())));
    return folder;
  }
  static std::vector<std::string> Command(const Options& options, const std::string& folder,
                                          bool with_keys) {
    std::vector<std::string> words{
        options.pserver, "serve", "--listen", "tcp://" + options.listen + ":0",
        "--shard",       "0/1",   "--data",   folder,
        "--threads",     "1",     "--memory", "1000000000000"};
    if (with_keys) {
      words.insert(words.end(), {"--keys", folder + "/server"});
    } else if (options.listen != "127.0.0.1") {
      words.push_back("--insecure");
    }
    if (!options.wrapper.empty()) words.insert(words.begin(), options.wrapper);
    return words;
  }
  const std::string folder_;
  Child child_;
  std::string address_;
};

double AvailableBytes() {
  std::ifstream lines("/proc/meminfo");
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("MemAvailable:")) return 1024 * std::atof(line.c_str() + 13);
  }
  return 0;
}

std::string Number(size_t value) { return std::to_string(value); }

/// Forward and backward of a remote layer, many micro-batches on the way.
void MeasureRemote(unsigned tau, const Options& options, Report& report) {
  constexpr size_t kTokens = 1024, kInFlight = 8;
  constexpr int kMicroBatches = 24;
  const LayerShape shape{
      .tables = kTables, .rows = size_t{1} << tau, .columns = kColumns, .tokens = kTokens};
  BenchLayer layer(shape);
  ServerProcess server(options);
  ServerProcess locked_server(options, /*with_keys=*/true);
  const ClientKeys keys = locked_server.client_keys();
  TransportContext context;
  ServedLayer served(context, server.address(), shape);
  ServedLayer encrypted(context, locked_server.address(), shape, &keys);
  const WireBatch batch = served.Batch(layer, kTokens);
  double bare = 1e9, bare_forward = 1e9, forward = 1e9, backward = 1e9, both = 1e9, curve = 1e9;
  for (int i = 0; i < options.repeats; ++i) {
    bare_forward = std::min(bare_forward, FastestOfBurst([&] { layer.Forward(); }));
    bare = std::min(bare, FastestOfBurst([&] {
                      layer.Forward();
                      layer.Backward();
                    }));
    both = std::min(both, served.ForwardAndBackward(batch, kMicroBatches, kInFlight));
    curve = std::min(curve, encrypted.ForwardAndBackward(batch, kMicroBatches, kInFlight));
    forward = std::min(forward, served.Forward(batch, kMicroBatches, kInFlight));
    backward = std::min(backward, served.Backward(batch, kMicroBatches, kInFlight));
  }
  const std::string where = ", tau " + Number(tau);
  const auto rate = [](double seconds) { return static_cast<double>(kTokens) / seconds; };
  const double bare_backward = bare - bare_forward;
  report.Line("in-process: forward + backward" + where, rate(bare), "tokens/s", {},
              "bare kernels, 1 thread");
  report.Line("remote: forward + backward" + where, rate(both), "tokens/s",
              {{"in-process", bare / both}}, "tcp, 1 thread each, 8 in flight");
  report.Line("remote, with keys: forward + backward" + where, rate(curve), "tokens/s",
              {{"without keys", both / curve}}, "CURVE");
  report.Line("remote: forward" + where, rate(forward), "tokens/s",
              {{"in-process", bare_forward / forward}});
  report.Line("remote: backward" + where, rate(backward), "tokens/s",
              {{"in-process", bare_backward / backward}});
}

struct Compared {
  ServedLayer::Exchanged pushdown, pull;
  bool pulled = false;
};

/// The fastest of some turns each: a second's worth, at least 1 and at most 10.
Compared Compare(ServedLayer& served, size_t tokens, ThreadPool& pool) {
  constexpr int kMostTurns = 10;
  constexpr double kSeconds = 1;
  const WireBatch batch = served.RandomBatch(tokens);
  Compared best;
  best.pulled = served.CanPull(batch);
  best.pushdown.seconds = best.pull.seconds = std::numeric_limits<double>::infinity();
  // The first turn touches new memory and is not counted.
  double spent = 0;
  for (int i = 0; i < 2 || (spent < kSeconds && i <= kMostTurns); ++i) {
    const auto turn = [&](ExchangeMode mode, ServedLayer::Exchanged* fastest) {
      const ServedLayer::Exchanged now = served.Exchange(batch, mode, pool);
      spent += now.seconds;
      if (i > 0 && now.seconds < fastest->seconds) *fastest = now;
    };
    turn(ExchangeMode::kPushdown, &best.pushdown);
    if (best.pulled) turn(ExchangeMode::kPull, &best.pull);
  }
  return best;
}

/// The most columns of K tables that fit into memory beside the gradients of the rows that `tokens`
/// tokens meet and what is on its way.
size_t ColumnsThatFit(unsigned tau, size_t tokens) {
  constexpr double kOnTheWay = 5.0 * (1 << 30);
  const double rows = static_cast<double>(size_t{1} << tau);
  const double met = rows * -std::expm1(-static_cast<double>(tokens) / rows);
  size_t columns = kColumns;
  const auto bytes = [&] {
    return (rows + met) * static_cast<double>(kTables * columns * sizeof(float)) + kOnTheWay;
  };
  while (columns > 64 && bytes() > 0.95 * AvailableBytes()) columns /= 2;
  return columns;
}

void PrintRowExchange(const Compared& best, const std::string& where, Report& report) {
  const double pull = best.pull.seconds, pushdown = best.pushdown.seconds;
  report.Line("row exchange: " + where, pull * 1e3, "ms", {}, "forward and backward, tcp");
  report.Line("pushdown: " + where, pushdown * 1e3, "ms",
              {{"the row exchange's speed", pull / pushdown}});
  report.Line("row exchange: bytes, " + where, best.pull.bytes / 1e6, "MB");
  report.Line("pushdown: bytes, " + where, best.pushdown.bytes / 1e6, "MB",
              {{"the row exchange's", best.pushdown.bytes / best.pull.bytes}});
}

/// Pushdown and row exchange by table size and tokens. Quick: one cell of it.
void MeasureRowExchange(const Options& options, Report& report) {
  constexpr unsigned kTau = 16;
  constexpr size_t kTokens = 8192, kMostTokens = 32768;
  const std::vector<unsigned> taus =
      options.quick ? std::vector{kTau} : std::vector{6u, 8u, 10u, 12u, 14u, kTau, 18u};
  const std::vector<size_t> batches =
      options.quick ? std::vector{kTokens}
                    : std::vector<size_t>{256, 1024, 4096, kTokens, kMostTokens};
  double worst = 1;
  for (const unsigned tau : taus) {
    if (options.tau != 0 && options.tau != tau) continue;
    const size_t columns = ColumnsThatFit(tau, batches.back());
    ServerProcess server(options);
    TransportContext context;
    ThreadPool pool(1);
    ServedLayer served(context, server.address(),
                       {.tables = kTables,
                        .rows = size_t{1} << tau,
                        .columns = columns,
                        .tokens = batches.back()});
    for (const size_t tokens : batches) {
      const Compared best = Compare(served, tokens, pool);
      const bool pulls = served.Choice(tokens) == ExchangeMode::kPull;
      const std::string choice = pulls ? "takes pull" : "takes pushdown";
      const std::string where =
          "tau " + Number(tau) + ", h " + Number(columns) + ", " + Number(tokens);
      if (!best.pulled) {
        report.Line("auto: " + where, best.pushdown.seconds * 1e3, "ms", {},
                    choice + "; the rows do not fit one reply");
        continue;
      }
      const double pushdown = best.pushdown.seconds, pull = best.pull.seconds;
      const double chosen = pulls ? pull : pushdown, better = std::min(pushdown, pull);
      worst = std::max(worst, chosen / better);
      report.Line("auto: " + where, chosen * 1e3, "ms",
                  {{"the better one's time", chosen / better},
                   {"pushdown's", chosen / pushdown},
                   {"pull's", chosen / pull}},
                  choice);
      if (tau == kTau && tokens == kTokens) PrintRowExchange(best, where, report);
    }
  }
  if (!options.quick) report.Line("auto: largest loss", 100 * (worst - 1), "%");
}

Options Parse(int argc, char** argv) {
  const std::string usage =
      "exchange_bench --pserver PROGRAM [--repeats N] [--quick 1] [--tau N] [--json FILE] "
      "[--listen HOST] [--wrapper PROGRAM]";
  Options options;
  ParseFlags(argc, argv, usage,
             {{"--pserver", &options.pserver},
              {"--repeats", &options.repeats},
              {"--quick", &options.quick},
              {"--tau", &options.tau},
              {"--listen", &options.listen},
              {"--wrapper", &options.wrapper},
              {"--json", &options.json}});
  if (options.pserver.empty() || options.repeats < 1) EndWithUsage(usage);
  return options;
}

}  // namespace
}  // namespace mf

int main(int argc, char** argv) {
  const mf::Options options = mf::Parse(argc, argv);
  mf::MustBeOk(mf::SetUpLogging("error"));  // not that a large table takes seconds to make
  mf::Report report(options.json);
  for (const unsigned tau : {8u, 13u}) {
    if (options.tau == 0 || options.tau == tau) mf::MeasureRemote(tau, options, report);
  }
  mf::MeasureRowExchange(options, report);
  return 0;
}
