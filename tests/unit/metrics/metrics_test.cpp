// Goal: metrics read back what was added, appear under the names of DESIGN 7, and a server's tell
// what happened to it.
#include "common/metrics/metrics.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "tests/support/shard_harness.h"

namespace mf {
namespace {

TEST(Metrics, ReadBack) {
  Metrics metrics;
  EXPECT_EQ(metrics.Text(), "");  // what a process does not have, it does not show
  metrics.AddWireBytes("forward", Direction::kSent, 100);
  metrics.AddWireBytes("forward", Direction::kSent, 23);
  metrics.AddWireBytes("forward", Direction::kReceived, 5);
  metrics.Count(Metric::kRequestsRejected, {"malformed"});
  metrics.ObserveRequest("forward", 0.003);
  metrics.Set(Metric::kWorkersLive, 3);
  metrics.Set(Metric::kWorkersLive, 2);
  EXPECT_EQ(metrics.Value(Metric::kWireBytes, {"forward", "sent"}), 123);
  EXPECT_EQ(metrics.Value(Metric::kWireBytes, {"forward", "received"}), 5);
  EXPECT_EQ(metrics.Value(Metric::kWireBytes, {"pull", "sent"}), 0);
  EXPECT_EQ(metrics.Value(Metric::kRequestsRejected, {"malformed"}), 1);
  EXPECT_EQ(metrics.Value(Metric::kRequestsRejected, {"other"}), 0);
  EXPECT_EQ(metrics.Value(Metric::kWorkersLive), 2);
  const std::string text = metrics.Text();
  for (const char* line :
       {"mf_wire_bytes_total{direction=\"sent\",op=\"forward\"} 123",
        "mf_request_seconds_count{op=\"forward\"} 1", "mf_workers_live 2", "# TYPE mf_step"}) {
    EXPECT_EQ(text.find(line) != std::string::npos, line[0] == 'm') << line << " in\n" << text;
  }
}

TEST(Metrics, ServesOnAPortOfItsOwn) {
  Metrics metrics;
  EXPECT_EQ(metrics.address(), "");
  ASSERT_TRUE(metrics.Serve("127.0.0.1:0").ok());
  EXPECT_TRUE(metrics.address().starts_with("127.0.0.1:"));
  EXPECT_NE(metrics.address(), "127.0.0.1:0");
  Metrics second;
  const Status taken = second.Serve(metrics.address());
  EXPECT_EQ(taken.code(), Code::kInvalid);
  EXPECT_NE(taken.message().find(metrics.address()), std::string::npos);
}

TEST(Metrics, TableIsTheDocuments) {
  std::ifstream file(MF_SOURCE_DIR "/docs/METRICS.md");
  ASSERT_TRUE(file) << "docs/METRICS.md is missing";
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_NE(text.str().find(MetricsTableMarkdown()), std::string::npos)
      << "replace the table by the output of `worker options --metrics`";
}

TEST(Metrics, OfAServer) {
  ShardHarness server(ShardConfig());
  const Metrics& metrics = server.metrics();
  for (uint64_t step = 1; step <= 3; ++step) server.RunStep(step, 1e-2, step != 2);
  // Tensors are looked at one a tick.
  for (size_t i = 0; i < 2 * server.specs().size(); ++i) {
    server.shard().Tick(100.0 * static_cast<double>(i));
  }
  EXPECT_EQ(metrics.Value(Metric::kStep), 3);
  EXPECT_EQ(metrics.Value(Metric::kStepsDropped), 1);
  EXPECT_EQ(metrics.Value(Metric::kRecoveries), 1);
  const TensorSpec& spec = server.spec("blocks.0.m2.tables");
  const double hits = 3.0 * 3 * 16 * static_cast<double>(spec.tables);
  EXPECT_EQ(metrics.Value(Metric::kBucketHits, {"blocks.0.m2"}), hits);
  EXPECT_GT(metrics.Value(Metric::kBucketEntropy, {"blocks.0.m2", "worst"}), 0);
  EXPECT_LT(metrics.Value(Metric::kBucketEntropy, {"blocks.0.m2", "mean"}), 1);
  EXPECT_GT(metrics.Value(Metric::kBucketCoverage, {"blocks.0.m2", "mean"}), 0.3);
  EXPECT_GT(metrics.Value(Metric::kBucketTop1, {"blocks.0.m2", "worst"}),
            metrics.Value(Metric::kBucketTop1, {"blocks.0.m2", "mean"}));
  double bins = 0;
  for (int64_t bin = 0; bin < spec.rows; ++bin) {
    bins += metrics.Value(Metric::kBucketBinHits, {"blocks.0.m2", "first", std::to_string(bin)});
  }
  EXPECT_EQ(bins, 3.0 * 3 * 16);
  EXPECT_GT(metrics.Value(Metric::kTableRows, {"blocks.0.m2"}), 0);
  EXPECT_LE(metrics.Value(Metric::kTableRows, {"blocks.0.m2"}),
            static_cast<double>(spec.total_rows()));
  EXPECT_GE(metrics.Value(Metric::kTableBytes, {"blocks.0.m2"}),
            static_cast<double>(spec.total_rows()) * static_cast<double>(spec.columns) * 3 * 4);
  EXPECT_GT(metrics.Value(Metric::kTableRows, {"dense"}), 0);
  // Counters go on where the run goes back, although the server counts from zero.
  server.epoch += 1;
  ASSERT_EQ(server.Send(server.Rollback(server.epoch, 0)).code, Code::kOk);
  server.RunStep(1, 1e-2);
  for (size_t i = 0; i < 2 * server.specs().size(); ++i) {
    server.shard().Tick(1e6 + 100.0 * static_cast<double>(i));
  }
  EXPECT_EQ(metrics.Value(Metric::kBucketHits, {"blocks.0.m2"}), hits / 3 * 4);
  EXPECT_EQ(metrics.Value(Metric::kRecoveries), 2);
  EXPECT_EQ(metrics.Value(Metric::kStep), 1);
}

// Goal: the coordinator's metrics: who is alive, whose lease ended, how long the phases of a step
// last.
TEST(Metrics, OfTheCoordinator) {
  ShardHarness server(ShardConfig(), {.recover = false});
  server.session = As<HelloReply>(server.Send(server.Hello())).session;
  Request ask = server.Make(LeaseRequest{});
  ask.id = 1000;
  server.shard().Handle("worker", ask, 10);
  ASSERT_EQ(As<LeaseReply>(server.sent().back().second).work, Work::kRecover);
  EXPECT_EQ(server.metrics().Value(Metric::kWorkersLive), 1);
  EXPECT_EQ(server.metrics().Value(Metric::kLeaseExpired), 0);
  server.shard().Tick(10 + 31);
  EXPECT_EQ(server.metrics().Value(Metric::kWorkersLive), 0);
  EXPECT_EQ(server.metrics().Value(Metric::kLeaseExpired), 1);
  ask.id = 1001;
  server.shard().Handle("worker", ask, 50);
  const LeaseReply again = As<LeaseReply>(server.sent().back().second);
  ASSERT_EQ(again.work, Work::kRecover);
  const Request recovered =
      server.Make(RecoveredRequest{.to = {again.epoch, 0}, .recovered = true});
  server.shard().Handle("worker", recovered, 52);
  EXPECT_EQ(server.sent().back().second.code, Code::kOk);
  EXPECT_EQ(server.metrics().Value(Metric::kWorkersLive), 1);
  const std::string text = server.metrics().Text();
  EXPECT_NE(text.find("mf_step_seconds_sum{phase=\"recover\"} 42"), std::string::npos) << text;
}

}  // namespace
}  // namespace mf
