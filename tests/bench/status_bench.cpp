// Does a server answer whatever it is at? One server holds gigabytes of tables, trains them, saves
// them and loads them again after it was killed; another client asks all the while how it is. How
// long status takes, by what the server said that it was at.
//
//   status_bench PSERVER [--megabytes N] [--steps N] [--threads N] [--folder DIR] [--json FILE]
#include <signal.h>
#include <stdlib.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/client/client.h"
#include "common/client/connection.h"
#include "common/client/session.h"
#include "tests/bench/support/child.h"
#include "tests/bench/support/flags.h"
#include "tests/bench/support/report.h"

namespace mf {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kTables = 64, kColumns = 800;
constexpr size_t kTokens = 1024;
constexpr int64_t kPlanes = 3;  // weights and Adam's moments
constexpr auto kBetweenAsks = std::chrono::milliseconds(5);
constexpr double kDeadline = 600;
constexpr int64_t kPart = 8;  // a step hits one row in so many

struct Options {
  std::string pserver;
  int64_t megabytes = 10'000;
  int steps = 24;
  int threads = 2;
  std::string folder = "/var/tmp";
  std::string json;
};

/// Tables whose state has about so many bytes; kPart steps hit every row of them.
RunDescription Describe(const Options& options) {
  const int64_t row_bytes = kPlanes * static_cast<int64_t>(sizeof(float)) * kColumns;
  int64_t rows = kPart * static_cast<int64_t>(kTokens);
  while (2 * rows * kTables * row_bytes <= options.megabytes * 1'100'000) rows *= 2;
  RunDescription run{.about = "status_bench", .data = "made"};
  TensorSpec& tables = run.tensors.emplace_back();
  tables.name = "tables";
  tables.kind = TensorKind::kMemory;
  tables.shape = {tables.tables = kTables, tables.rows = rows, tables.columns = kColumns};
  run.rules.steps = 2 * options.steps;
  run.rules.micro_batches = rows / kPart / static_cast<int64_t>(kTokens);
  run.rules.tokens_per_micro_batch = kTokens;
  run.rules.snapshots = {.every_steps = kPart, .every_minutes = 0, .keep = 1};
  run.rules.eval_every = 0;
  return run;
}

/// Asks a server how it is, from a thread of its own, until destroyed.
class Asker {
 public:
  Asker(const std::string& address, std::map<std::string, std::vector<double>>& seconds)
      : address_(address), seconds_(seconds), thread_([this] { Run(); }) {}
  ~Asker() {
    stopping_.store(true);
    thread_.join();
  }
  /// The newest snapshot, if none is being written; 0: there is none.
  uint64_t saved() const { return saved_.load(); }

 private:
  void Run() {
    auto connection = Connect({address_}, "", kDeadline);
    if (!connection.ok()) return;
    Client& client = *(*connection)->client;
    bool joined = false;
    while (!stopping_.load()) {
      const RequestBody body =
          joined ? RequestBody(StatusRequest{}) : RequestBody(HelloRequest{.shards = 1});
      const auto begin = Clock::now();
      Client::Outcome outcome = client.Call(0, {.body = body}).get();
      const std::chrono::duration<double> took = Clock::now() - begin;
      if (outcome.ok()) {
        const Reply& reply = outcome.value()[0];
        if (!joined) client.SetSession(0, As<HelloReply>(reply).session);
        const RunState& state = joined ? As<StatusReply>(reply).state : As<HelloReply>(reply).state;
        seconds_[AtWhat(state)].push_back(took.count());
        const SnapshotState& snapshots = state.snapshots;
        const bool idle = snapshots.writing == 0 && !snapshots.published.empty();
        saved_.store(idle ? snapshots.published.back() : 0);
      } else {
        seconds_["before the run is there"].push_back(took.count());
      }
      joined = outcome.ok() || (joined && outcome.status().code() != Code::kNotJoined);
      std::this_thread::sleep_for(kBetweenAsks);
    }
  }
  static std::string AtWhat(const RunState& state) {
    if (state.doing.starts_with("loading")) return "loading";
    const std::string saving = state.snapshots.writing != 0 ? ", saving" : "";
    return (state.doing.empty() ? "idle" : state.doing) + saving;
  }

  const std::string address_;
  std::map<std::string, std::vector<double>>& seconds_;
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> saved_{0};
  std::thread thread_;
};

/// A part of a run that ends after `steps` micro-batch steps, or at its end.
Status Train(const RunDescription& run, const std::string& address, uint64_t until) {
  MF_ASSIGN_OR_RETURN(const auto session,
                      Session::Connect({.addresses = {address}, .run = run, .log = "error"}));
  MF_RETURN_IF_ERROR(session->Join());
  const auto lane = session->NewLane();
  const TensorSpec& tables = run.tensors[0];
  const size_t pairs = static_cast<size_t>(kTables) * kTokens;
  const Buffer indices(pairs * static_cast<size_t>(tables.index_bytes()));
  const Buffer weights(pairs * sizeof(float));
  std::fill_n(weights.as<float>(), pairs, 1.0f);
  const Buffer dy(kTokens * kColumns * sizeof(float));
  std::fill_n(dy.as<float>(), kTokens * kColumns, 1e-3f);
  for (;;) {
    MF_ASSIGN_OR_RETURN(const Session::Work work, lane->Next());
    if (work.kind == Session::Work::Kind::kFinished) return Status::Ok();
    if (work.finished.step >= until) return Status::Ok();
    if (work.kind == Session::Work::Kind::kMicroBatch) {
      for (size_t i = 0; i < pairs; ++i) {
        const uint64_t batch =
            work.open.step * static_cast<uint64_t>(run.rules.micro_batches) + work.micro_batch;
        const size_t row = (batch * kTokens + i % kTokens) % static_cast<uint64_t>(tables.rows);
        if (tables.index_bytes() == 2) {
          indices.as<uint16_t>()[i] = static_cast<uint16_t>(row);
        } else {
          indices.as<uint32_t>()[i] = static_cast<uint32_t>(row);
        }
      }
      MF_RETURN_IF_ERROR(
          session->tables()
              .Backward(work.open, work.micro_batch, tables, kTokens, indices, weights, dy, nullptr)
              .Wait());
    }
    lane->Done(0.0);
  }
}

double Quantile(const std::vector<double>& sorted, double q) {
  const auto i = static_cast<size_t>(std::ceil(q * static_cast<double>(sorted.size())));
  return sorted[std::min(sorted.size(), std::max<size_t>(i, 1)) - 1];
}

void Print(std::map<std::string, std::vector<double>> seconds, Report& report) {
  std::vector<double>& all = seconds["all"];
  for (const auto& [what, some] : seconds) {
    if (&some != &all) all.insert(all.end(), some.begin(), some.end());
  }
  for (auto& [what, times] : seconds) {
    std::sort(times.begin(), times.end());
    char note[160];
    std::snprintf(note, sizeof note, "p99 %.2f ms, p99.9 %.2f ms, most %.2f ms, of %zu",
                  1e3 * Quantile(times, 0.99), 1e3 * Quantile(times, 0.999), 1e3 * times.back(),
                  times.size());
    report.Line("status, " + what + ": p50", 1e3 * Quantile(times, 0.5), "ms", {}, note);
  }
}

/// A server on `folder`, and where it listens.
std::unique_ptr<Child> Serve(const Options& options, const std::string& folder,
                             const std::string& listen, std::string* address) {
  auto server = std::make_unique<Child>(
      std::vector<std::string>{options.pserver, "serve", "--listen", listen, "--shard", "0/1",
                               "--data", folder, "--threads", std::to_string(options.threads)});
  const std::string line = server->Read().value_or("");
  if (!line.starts_with("listening ")) return nullptr;
  *address = line.substr(std::string("listening ").size());
  return server;
}

int Run(const Options& options) {
  const RunDescription run = Describe(options);
  const TensorSpec& tables = run.tensors[0];
  Report report(options.json);
  std::string folder = options.folder + "/status_bench-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) {
    std::perror(folder.c_str());
    return 1;
  }
  const double bytes = static_cast<double>(tables.total_rows()) * kPlanes * sizeof(float) *
                       static_cast<double>(tables.columns);
  std::map<std::string, std::vector<double>> seconds;
  Status status;
  double loading = 0;
  std::string address;
  std::unique_ptr<Child> server = Serve(options, folder, "tcp://127.0.0.1:0", &address);
  if (server != nullptr) {
    const Asker asker(address, seconds);
    status = Train(run, address, static_cast<uint64_t>(options.steps));
    while (status.ok() && asker.saved() == 0) std::this_thread::sleep_for(kBetweenAsks);
    if (status.ok()) {
      kill(server->pid(), SIGKILL);
      server.reset();
      server = Serve(options, folder, address, &address);
      const auto begin = Clock::now();
      if (server != nullptr) status = Train(run, address, 1);
      loading = std::chrono::duration<double>(Clock::now() - begin).count();
    }
  }
  const bool served = server != nullptr;
  server.reset();
  std::filesystem::remove_all(folder);
  if (!served) status = Status::Failed(options.pserver + ": no server");
  if (!status.ok()) {
    std::fprintf(stderr, "error: %s\n", status.message().c_str());
    return 1;
  }
  report.Line("status: state of the server", bytes / 1e9, "GB");
  report.Line("status: from its start until it has loaded that", loading, "s");
  Print(std::move(seconds), report);
  return 0;
}

Options Parse(int argc, char** argv) {
  const std::string usage =
      "status_bench PSERVER [--megabytes N] [--steps N] [--threads N] [--folder DIR] [--json FILE]";
  if (argc < 2) EndWithUsage(usage);
  Options options;
  options.pserver = argv[1];
  ParseFlags(argc - 1, argv + 1, usage,
             {{"--megabytes", &options.megabytes},
              {"--steps", &options.steps},
              {"--threads", &options.threads},
              {"--folder", &options.folder},
              {"--json", &options.json}});
  if (options.megabytes < 1 || options.steps < 2 || options.threads < 1) EndWithUsage(usage);
  return options;
}

}  // namespace
}  // namespace mf

int main(int argc, char** argv) { return mf::Run(mf::Parse(argc, argv)); }
