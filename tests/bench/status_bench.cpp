// Does a server answer whatever it is at? One server holds gigabytes of tables, trains them, saves
// them and loads them again after it was killed; another client asks all the while how it is. How
// long status takes, by what the server said that it was at.
//
//   status_bench PSERVER [--megabytes N] [--steps N] [--threads N] [--folder DIR] [--json FILE]
#include <signal.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/client/session.h"
#include "tests/bench/support/flags.h"
#include "tests/bench/support/report.h"
#include "tests/bench/support/served.h"

namespace mf {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kTables = 64, kColumns = 800;
constexpr size_t kTokens = 1024;
constexpr int64_t kPlanes = 3;  // weights and Adam's moments
constexpr auto kBetweenLooks = std::chrono::milliseconds(5);
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
  StatusTimes seconds;
  Status status;
  double loading = 0;
  std::string address;
  const auto serve = [&](const std::string& listen) {
    return StartServer(options.pserver, folder, listen, options.threads, &address);
  };
  std::unique_ptr<Child> server = serve("tcp://127.0.0.1:0");
  if (server != nullptr) {
    const StatusAsker asker(address, seconds);
    status = Train(run, address, static_cast<uint64_t>(options.steps));
    while (status.ok() && asker.saved() == 0) std::this_thread::sleep_for(kBetweenLooks);
    if (status.ok()) {
      kill(server->pid(), SIGKILL);
      server.reset();
      server = serve(address);
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
  ReportStatus(std::move(seconds), report);
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
