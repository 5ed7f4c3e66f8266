// Goal: over TCP any number of workers and servers give the result of one process, bit for bit, and
// so they do when messages are lost, come twice, late and out of order, and when connections are
// cut.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/faulty_transport.h"
#include "tests/support/tcp_servers.h"
#include "tests/support/training_case.h"

namespace mf {
namespace {

// The sanitizers look for races and overruns, which show in a few steps, not for wrong bits.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int64_t kSteps = 6;
constexpr double kCut = 0.02;
#else
constexpr int64_t kSteps = 60;
constexpr double kCut = 0.001;
#endif
constexpr double kResendSeconds = 0.005;

TrainOptions Options(const TrainingFolder& folder) {
  TrainOptions options;
  options.config = SmallTrainingConfig(kSteps);
  options.data = folder.text();
  return options;
}

/// All workers' outcomes are compared with `expected`; returns how often requests were sent again.
uint64_t ExpectSame(TrainingFolder& folder, uint32_t shards, uint32_t workers,
                    const TrainingOutcome& expected, const TrainOptions& options) {
  SCOPED_TRACE(std::to_string(shards) + " servers, " + std::to_string(workers) + " workers");
  const TcpServers servers(shards);
  std::vector<TrainingOutcome> outcomes(workers);
  std::vector<TrainSummary> summaries(workers);
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < workers; ++i) {
    TrainOptions own = options;
    own.pservers = servers.addresses();
    threads.emplace_back([&, i, own, out = folder.NewRun()] {
      outcomes[i] = TrainAndRead(own, out, &summaries[i]);
    });
  }
  for (std::thread& thread : threads) thread.join();
  uint64_t resends = 0;
  for (uint32_t i = 0; i < workers; ++i) {
    EXPECT_EQ(outcomes[i].metrics, expected.metrics) << "worker " << i;
    EXPECT_EQ(outcomes[i].model, expected.model) << "worker " << i;
    resends += summaries[i].resends;
  }
  EXPECT_EQ(servers.malformed(), 0u);
  return resends;
}

TEST(Tcp, OneResult) {
  TrainingFolder folder;
  const TrainingOutcome expected = TrainAndRead(Options(folder), folder.NewRun());
  for (const uint32_t shards : {1u, 2u, 3u}) {
    for (const uint32_t workers : {1u, 2u, 3u}) {
      ExpectSame(folder, shards, workers, expected, Options(folder));
    }
  }
}

TEST(Tcp, OneResultUnderFaults) {
  TrainingFolder folder;
  const TrainingOutcome expected = TrainAndRead(Options(folder), folder.NewRun());
  uint64_t seed = 0;
  for (const auto& [shards, workers] : {std::pair(1u, 1u), {2u, 3u}, {3u, 2u}}) {
    const auto counts = std::make_shared<FaultCounts>();
    std::atomic<uint64_t> next{seed += 100};
    TrainOptions options = Options(folder);
    options.config.exchange.in_flight = 4;  // a lost message holds up one lane only
    options.resend_seconds = kResendSeconds;
    options.wrap_transport = [&](std::unique_ptr<ClientTransport> inner) {
      FaultOptions faults;
      faults.seed = next.fetch_add(1);
      faults.drop = 0.05;
      faults.duplicate = 0.05;
      faults.late = 0.1;
      faults.cut = kCut;
      faults.cut_ms_max = 50;
      return MakeFaulty(std::move(inner), faults, counts);
    };
    const uint64_t resends = ExpectSame(folder, shards, workers, expected, options);
    EXPECT_GT(resends, 0u);
    EXPECT_GT(counts->lost_requests, 0u);
    EXPECT_GT(counts->lost_replies, 0u);
    EXPECT_GT(counts->late_replies, 0u);
    EXPECT_GT(counts->duplicated_requests, 0u);
    EXPECT_GT(counts->duplicated_replies, 0u);
    EXPECT_GT(counts->overtaken, 0u);
    EXPECT_GT(counts->cuts, 0u);
  }
}

}  // namespace
}  // namespace mf
