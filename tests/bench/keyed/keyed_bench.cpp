// A table without a number of rows on one server: keys that it has never seen are trained, millions
// of them, while another client asks how the server is; then keys are looked up, the frequent ones
// again and again, beside maps of this process.
//
//   keyed_bench PSERVER [--millions N] [--width N] [--keys N] [--lookups N] [--threads N]
//               [--folder DIR] [--json FILE]
//     --keys: of a step, in thousands; --lookups: of a request, in thousands
#include <stdlib.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/client/session.h"
#include "common/run/keyed_rows.h"
#include "tests/bench/support/flags.h"
#include "tests/bench/support/report.h"
#include "tests/bench/support/served.h"

namespace mf {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kCompared = 10'000'000;  // keys of the map beside which they are looked up
constexpr size_t kMapWidth = 16;
constexpr int kRequests = 24;

struct Options {
  std::string pserver;
  int64_t millions = 100;
  int64_t width = 16;
  int64_t keys = 500;
  int64_t lookups = 128;
  int threads = 2;
  std::string folder = "/var/tmp";
  std::string json;
};

double Since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

RunDescription Describe(const Options& options) {
  RunDescription run{.about = "keyed_bench", .data = "made"};
  TensorSpec& items = run.tensors.emplace_back();
  items.name = "items";
  items.kind = TensorKind::kKeyed;
  items.tables = kKeyRanges;
  items.rows = kRowsPerKeyRange;
  items.shape = {items.columns = options.width};
  items.init = Init::kNormal;
  items.init_value = 0.01;
  items.optimizer.kind = OptimizerKind::kRowAdagrad;
  items.optimizer.sparse_update = SparseUpdate::kLazy;
  run.rules.steps = options.millions * 1000 / options.keys;
  run.rules.micro_batches = 1;
  run.rules.snapshots = {.every_steps = 0, .every_minutes = 0, .keep = 1};
  run.rules.eval_every = 0;
  return run;
}

/// "VmRSS" or "VmHWM" of a process, in bytes.
double MemoryOf(pid_t process, const std::string& what) {
  std::ifstream status("/proc/" + std::to_string(process) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(what + ":")) return 1024 * std::stod(line.substr(what.size() + 1));
  }
  return 0;
}

/// Numbers below `count`, of which number n comes with a chance of about 1 / n: Zipf's law.
std::vector<uint64_t> Draw(uint64_t count, size_t lookups, std::mt19937_64& random) {
  std::uniform_real_distribution<double> uniform;
  const double log_count = std::log(static_cast<double>(count));
  std::vector<uint64_t> drawn(lookups);
  for (uint64_t& number : drawn) {
    number = std::min(count - 1, static_cast<uint64_t>(std::exp(uniform(random) * log_count)) - 1);
  }
  return drawn;
}

/// Keys a second: of each request the distinct rows are asked for, as an embedding does it.
Result<double> LookUp(TableClient& tables, const TensorSpec& items, FinishedStep at, uint64_t count,
                      size_t lookups) {
  std::mt19937_64 random(3);
  double seconds = 0;
  std::vector<float> values;
  for (int i = 0; i < kRequests; ++i) {
    std::vector<uint64_t> rows = Draw(count, lookups, random);
    const auto begin = Clock::now();
    for (uint64_t& row : rows) row = RowOfKey(row);
    std::sort(rows.begin(), rows.end());
    rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
    values.resize(rows.size() * static_cast<size_t>(items.columns));
    MF_RETURN_IF_ERROR(tables.Pull(at, items, rows, values.data()).Wait());
    seconds += Since(begin);
  }
  return static_cast<double>(lookups) * kRequests / seconds;
}

/// The same of a map in this process: every key is found and its row copied.
double LookUpInMap(size_t lookups) {
  std::unordered_map<uint64_t, std::array<float, kMapWidth>> map;
  map.reserve(kCompared);
  for (uint64_t key = 0; key < kCompared; ++key) map[RowOfKey(key)] = {static_cast<float>(key)};
  std::mt19937_64 random(3);
  std::vector<float> values(lookups * kMapWidth);
  double seconds = 0;
  for (int i = 0; i < kRequests; ++i) {
    const std::vector<uint64_t> keys = Draw(kCompared, lookups, random);
    const auto begin = Clock::now();
    for (size_t k = 0; k < lookups; ++k) {
      const auto& row = map.find(RowOfKey(keys[k]))->second;
      std::memcpy(values.data() + k * kMapWidth, row.data(), sizeof(row));
    }
    seconds += Since(begin);
  }
  return static_cast<double>(lookups) * kRequests / seconds;
}

struct Measured {
  double keys = 0, seconds = 0, slowest = 0;     // of steps
  double lookups_compared = 0, lookups_all = 0;  // a second, at kCompared keys and at the end
};

Result<Measured> Train(const Options& options, const RunDescription& run,
                       const std::string& address) {
  MF_ASSIGN_OR_RETURN(const auto session,
                      Session::Connect({.addresses = {address}, .run = run, .log = "error"}));
  MF_RETURN_IF_ERROR(session->Join());
  const auto lane = session->NewLane();
  const TensorSpec& items = run.tensors[0];
  const auto keys = static_cast<size_t>(options.keys) * 1000;
  const auto lookups = static_cast<size_t>(options.lookups) * 1000;
  const std::vector<float> gradients(keys * static_cast<size_t>(items.columns), 1e-3f);
  std::vector<uint64_t> rows(keys);
  const std::vector<uint32_t> hits(keys, 1);
  Measured measured;
  auto begin = Clock::now();
  for (;;) {
    MF_ASSIGN_OR_RETURN(const Session::Work work, lane->Next());
    const FinishedStep at =
        work.kind == Session::Work::Kind::kMicroBatch ? work.open.before() : work.finished;
    const uint64_t trained = at.step * keys;
    if (trained > 0 && work.kind != Session::Work::Kind::kEvaluation) {
      const double took = Since(begin);
      measured.seconds += took;
      measured.slowest = std::max(measured.slowest, took);
    }
    if (work.kind == Session::Work::Kind::kFinished) {
      measured.keys = static_cast<double>(trained);
      MF_ASSIGN_OR_RETURN(measured.lookups_all,
                          LookUp(session->tables(), items, at, trained, lookups));
      return measured;
    }
    if (work.kind == Session::Work::Kind::kMicroBatch) {
      if (trained >= kCompared && measured.lookups_compared == 0) {
        MF_ASSIGN_OR_RETURN(measured.lookups_compared,
                            LookUp(session->tables(), items, at, kCompared, lookups));
      }
      for (size_t i = 0; i < keys; ++i) rows[i] = RowOfKey(trained + i);
      std::sort(rows.begin(), rows.end());
      begin = Clock::now();
      MF_RETURN_IF_ERROR(session->tables()
                             .Push(work.open, work.micro_batch, items, rows, hits, gradients.data())
                             .Wait());
    }
    lane->Done(0.0);
  }
}

int Run(const Options& options) {
  const RunDescription run = Describe(options);
  Report report(options.json);
  std::string address, folder = options.folder + "/keyed_bench-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) {
    std::perror(folder.c_str());
    return 1;
  }
  std::unique_ptr<Child> server =
      StartServer(options.pserver, folder, "tcp://127.0.0.1:0", options.threads, &address);
  if (server == nullptr) {
    std::fprintf(stderr, "error: %s: no server\n", options.pserver.c_str());
    std::filesystem::remove_all(folder);
    return 1;
  }
  const double before = MemoryOf(server->pid(), "VmRSS");
  StatusTimes status;
  Result<Measured> measured = Status::Failed("not measured");
  {
    const StatusAsker asker(address, status);
    measured = Train(options, run, address);
  }
  const double rss = MemoryOf(server->pid(), "VmRSS"), most = MemoryOf(server->pid(), "VmHWM");
  server.reset();
  std::filesystem::remove_all(folder);
  if (!measured.ok()) {
    std::fprintf(stderr, "error: %s\n", measured.status().message().c_str());
    return 1;
  }
  report.Line("keyed: rows", measured->keys / 1e6, "M");
  report.Line("keyed: memory of the server", rss / 1e9, "GB", {},
              "most " + std::to_string(most / 1e9) + " GB");
  const double row = static_cast<double>(options.width) * sizeof(float);
  report.Line("keyed: bytes a key", (rss - before) / measured->keys, "B",
              {{"the row's numbers", (rss - before) / measured->keys / row}});
  report.Line("keyed: new keys trained", measured->keys / measured->seconds / 1e6, "M/s", {},
              "the slowest step took " + std::to_string(measured->slowest) + " s");
  const double map = LookUpInMap(static_cast<size_t>(options.lookups) * 1000);
  report.Line("keyed: std::unordered_map, 10 M keys", map / 1e6, "M/s");
  if (measured->lookups_compared > 0) {
    report.Line("keyed: look-ups, 10 M keys", measured->lookups_compared / 1e6, "M/s",
                {{"unordered_map", measured->lookups_compared / map}});
  }
  report.Line("keyed: look-ups at the end", measured->lookups_all / 1e6, "M/s",
              {{"unordered_map", measured->lookups_all / map}});
  ReportStatus(std::move(status), report);
  return 0;
}

Options Parse(int argc, char** argv) {
  const std::string usage =
      "keyed_bench PSERVER [--millions N] [--width N] [--keys N] [--lookups N] [--threads N] "
      "[--folder DIR] [--json FILE]";
  if (argc < 2) EndWithUsage(usage);
  Options options;
  options.pserver = argv[1];
  ParseFlags(argc - 1, argv + 1, usage,
             {{"--millions", &options.millions},
              {"--width", &options.width},
              {"--keys", &options.keys},
              {"--lookups", &options.lookups},
              {"--threads", &options.threads},
              {"--folder", &options.folder},
              {"--json", &options.json}});
  if (options.millions < 1 || options.width < 1 || options.keys < 1 || options.lookups < 1 ||
      options.threads < 1) {
    EndWithUsage(usage);
  }
  return options;
}

}  // namespace
}  // namespace mf

int main(int argc, char** argv) { return mf::Run(mf::Parse(argc, argv)); }
