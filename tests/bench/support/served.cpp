#include "tests/bench/support/served.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <utility>

#include "common/client/client.h"
#include "common/client/connection.h"

namespace mf {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kBetweenAsks = std::chrono::milliseconds(5);
constexpr double kDeadline = 600;

std::string AtWhat(const RunState& state) {
  if (state.doing.starts_with("loading")) return "loading";
  const std::string saving = state.snapshots.writing != 0 ? ", saving" : "";
  return (state.doing.empty() ? "idle" : state.doing) + saving;
}

double Quantile(const std::vector<double>& sorted, double q) {
  const auto i = static_cast<size_t>(std::ceil(q * static_cast<double>(sorted.size())));
  return sorted[std::min(sorted.size(), std::max<size_t>(i, 1)) - 1];
}

}  // namespace

std::unique_ptr<Child> StartServer(const std::string& pserver, const std::string& folder,
                                   const std::string& listen, int threads, std::string* address) {
  auto server = std::make_unique<Child>(
      std::vector<std::string>{pserver, "serve", "--listen", listen, "--shard", "0/1", "--data",
                               folder, "--threads", std::to_string(threads)});
  const std::string line = server->Read().value_or("");
  if (!line.starts_with("listening ")) return nullptr;
  *address = line.substr(std::string("listening ").size());
  return server;
}

StatusAsker::StatusAsker(std::string address, StatusTimes& seconds)
    : address_(std::move(address)), seconds_(seconds), thread_([this] { Run(); }) {}

StatusAsker::~StatusAsker() {
  stopping_.store(true);
  thread_.join();
}

void StatusAsker::Run() {
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

void ReportStatus(StatusTimes seconds, Report& report) {
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

}  // namespace mf
