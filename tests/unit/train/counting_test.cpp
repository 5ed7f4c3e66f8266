// Goal: every contribution counts once. Gradients are small integers, the optimizer subtracts them
// from zero, so that the tables hold exact sums, in which one contribution too many or too few
// shows: under losses, repeats and reordering, with workers that die in the middle of a micro-batch
// or do it long after their lease has ended, whose work others do again.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <map>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/random.h"
#include "common/client/client.h"
#include "common/client/lease_work.h"
#include "common/client/table_client.h"
#include "tests/support/faulty_transport.h"
#include "tests/support/join.h"
#include "tests/support/shard_harness.h"
#include "tests/support/tcp_servers.h"
#include "tests/support/training_case.h"
#include "worker/config/tensors.h"
#include "worker/data/data.h"

namespace mf {
namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int64_t kSteps = 4;
#else
constexpr int64_t kSteps = 64;
#endif
constexpr uint64_t kMicroBatches = 8;
constexpr uint32_t kWorkers = 4;
constexpr int64_t kEpochs = 2;

/// The first step brings the tables to zero; the others are kEpochs.
int64_t WindowsPerEpoch(const Config& config) {
  return (kSteps - 1) * static_cast<int64_t>(kMicroBatches) * config.train.batch / kEpochs;
}

Config CountingConfig() {
  Config config = SmallTrainingConfig(kSteps);
  config.train.micro_batches = kMicroBatches;
  config.train.optimizer = OptimizerKind::kSgd;
  config.train.weight_decay = 0;
  config.train.clip = 0;
  config.train.eval_every = 0;
  config.train.lease_seconds = 0.2;
  config.exchange.mode = ExchangeMode::kPushdown;
  config.data.ids = IdType::kU16;
  config.data.validation_ratio = 0;
  config.model.vocabulary = WindowsPerEpoch(config) + 1;
  return config;
}

/// What is contributed to one tensor by one micro-batch: the same whoever does it.
struct Gradient {
  std::vector<uint64_t> rows;     // pushes; empty: all
  std::vector<uint16_t> buckets;  // backwards, [pairs][tokens]
  std::vector<float> values;      // [rows or tokens][columns]
  size_t count = 0;               // of rows that get something
};

/// Buckets as the wire has them: one byte each where that is enough.
Frame IndexFrame(const TensorSpec& tensor, const std::vector<uint16_t>& buckets) {
  if (tensor.index_bytes() == 2) return FrameOf(buckets);
  return FrameOf(std::vector<uint8_t>(buckets.begin(), buckets.end()));
}

class Counting {
 public:
  /// Token i of the text is i / model.sequence: wherever an epoch's windows begin, they have each
  /// id model.sequence times, but for the first and the last one, which have that together.
  Counting() : config(CountingConfig()), run(DescribeRun(config, "")) {
    std::ofstream file(folder_.Path("ids.bin"), std::ios::binary);
    for (int64_t i = 0; i < config.model.vocabulary * config.model.sequence; ++i) {
      const auto id = static_cast<uint16_t>(i / config.model.sequence);
      file.write(reinterpret_cast<const char*>(&id), sizeof(id));
    }
    file.close();
    auto opened = TokenSource::Open(config, folder_.Path("ids.bin"));
    MF_CHECK(opened.ok());
    source_ = std::move(opened).value();
  }

  Gradient Of(const TensorSpec& tensor, uint64_t step, uint64_t micro_batch) const {
    const uint64_t key = RandomKey(RandomKey(step, micro_batch), tensor.id);
    const size_t columns = static_cast<size_t>(tensor.columns);
    Gradient gradient;
    size_t rows = tensor.total_rows();
    if (tensor.kind == TensorKind::kMemory) {
      rows = static_cast<size_t>(config.tokens_per_micro_batch());
      gradient.buckets.resize(static_cast<size_t>(tensor.tables) * rows);
      for (size_t i = 0; i < gradient.buckets.size(); ++i) {
        // Half of the hits go to a few rows.
        const uint64_t below = i % 2 == 0 ? 5 : static_cast<uint64_t>(tensor.rows);
        gradient.buckets[i] = static_cast<uint16_t>(RandomBelow(RandomKey(key, i), below));
      }
      gradient.count = gradient.buckets.size();
    } else if (tensor.name == "embed.weight") {
      TokenBatch batch;
      MF_CHECK(source_
                   ->TrainBatch(static_cast<int64_t>(step) - 1, static_cast<int64_t>(micro_batch),
                                &batch)
                   .ok());
      std::map<uint64_t, size_t> times;
      for (const uint32_t token : batch.inputs) ++times[token];
      for (const auto& [token, count] : times) {
        gradient.rows.push_back(token);
        gradient.values.insert(gradient.values.end(), columns, static_cast<float>(count));
      }
      gradient.count = gradient.rows.size();
      return gradient;
    } else {
      gradient.count = rows;
    }
    gradient.values.resize(rows * columns);
    for (size_t i = 0; i < gradient.values.size(); ++i) {
      gradient.values[i] = static_cast<float>(RandomBelow(RandomKey(~key, i), 7)) - 3;
    }
    return gradient;
  }

  /// Adds what `Of` gives to whole numbers, without the servers. Returns how many rows got it.
  size_t AddTo(const TensorSpec& tensor, uint64_t step, uint64_t micro_batch,
               std::vector<int64_t>& sums) const {
    const Gradient gradient = Of(tensor, step, micro_batch);
    const size_t columns = static_cast<size_t>(tensor.columns);
    const auto add = [&](uint64_t row, size_t from) {
      for (size_t c = 0; c < columns; ++c) {
        sums[row * columns + c] += static_cast<int64_t>(gradient.values[from * columns + c]);
      }
    };
    const size_t tokens = static_cast<size_t>(config.tokens_per_micro_batch());
    for (size_t i = 0; i < gradient.buckets.size(); ++i) {
      add(i / tokens * static_cast<size_t>(tensor.rows) + gradient.buckets[i], i % tokens);
    }
    if (tensor.kind == TensorKind::kDense) {
      for (size_t i = 0; i < gradient.count; ++i) {
        add(gradient.rows.empty() ? i : gradient.rows[i], i);
      }
    }
    return gradient.count;
  }

  const Config config;
  const RunDescription run;
  const std::vector<TensorSpec>& tensors = run.tensors;

 private:
  const TrainingFolder folder_;
  std::unique_ptr<const TokenSource> source_;
};

/// A worker that knows the coordinator's messages and contributes Counting's gradients. Dies now
/// and then: Live() is called again until the run is finished.
class CountingWorker {
 public:
  CountingWorker(const Counting& counting, const std::vector<std::string>& addresses, uint64_t seed,
                 std::shared_ptr<FaultCounts> counts)
      : counting_(counting), addresses_(addresses), seed_(seed) {
    auto inner = ConnectZmq(context_, addresses);
    MF_CHECK(inner.ok());
    FaultOptions faults;
    faults.seed = seed;
    faults.drop = 0.05;
    faults.duplicate = 0.1;
    faults.late = 0.1;
    Client::Options options;
    options.resend_seconds = 0.005;
    client_ = std::make_unique<Client>(
        MakeFaulty(std::move(inner).value(), faults, std::move(counts)), addresses, options);
    tables_ = std::make_unique<TableClient>(*client_, counting.run);
  }

  /// True when the run is finished, false if the worker died. Its open requests die with it.
  bool Live();
  /// All values of a tensor after the last step.
  std::vector<float> Read(const TensorSpec& tensor) {
    return Pull(tensor, {epoch_, static_cast<uint64_t>(kSteps)});
  }

  static std::atomic<uint64_t> deaths, sleeps, stale;

 private:
  bool Chance(uint64_t in) { return RandomBelow(RandomKey(seed_, drawn_++), in) == 0; }
  void Join();
  Result<Reply> Call(RequestBody body);
  /// False: died.
  bool MicroBatch(const LeaseReply& lease);
  void Commit(const LeaseReply& lease);
  void Recover(const LeaseReply& lease);
  std::vector<float> Pull(const TensorSpec& tensor, FinishedStep at) {
    std::vector<float> values(tensor.values());
    const Status status =
        tables_->PullRange(at, tensor, 0, tensor.total_rows(), values.data()).Wait();
    if (!status.ok()) ++stale;  // the step has ended meanwhile; what is pushed then is refused
    return values;
  }

  const Counting& counting_;
  const std::vector<std::string> addresses_;
  const uint64_t seed_;
  uint64_t drawn_ = 0;
  TransportContext context_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<TableClient> tables_;
  std::vector<uint64_t> incarnations_;
  uint64_t epoch_ = 0;
};

std::atomic<uint64_t> CountingWorker::deaths{0};
std::atomic<uint64_t> CountingWorker::sleeps{0};
std::atomic<uint64_t> CountingWorker::stale{0};

void CountingWorker::Join() {
  Result<std::vector<uint64_t>> joined = SayHello(*client_, counting_.run.Json());
  ASSERT_TRUE(joined.ok()) << joined.status().message();
  incarnations_ = std::move(joined).value();
}

Result<Reply> CountingWorker::Call(RequestBody body) {
  Client::Outcome outcome = client_->Call(0, {.body = std::move(body)}).get();
  if (!outcome.ok()) return outcome.status();
  return std::move((*outcome)[0]);
}

bool CountingWorker::Live() {
  Join();
  while (!testing::Test::HasFatalFailure()) {
    const Result<Reply> reply = Call(LeaseRequest{.incarnations = incarnations_});
    if (!reply.ok()) {
      ADD_FAILURE() << reply.status().message();
      return true;
    }
    const LeaseReply& lease = As<LeaseReply>(reply.value());
    epoch_ = lease.epoch;
    if (lease.work == Work::kFinished) return true;
    if (lease.work == Work::kMicroBatch && !MicroBatch(lease)) return false;
    if (lease.work == Work::kCommit) Commit(lease);
    if (lease.work == Work::kRecover) Recover(lease);
    if (lease.work == Work::kEvaluate) (void)Call(EvaluatedRequest{.at = lease.finished()});
    if (lease.work == Work::kFailed) {
      ADD_FAILURE() << lease.failure;
      return true;
    }
  }
  return true;
}

bool CountingWorker::MicroBatch(const LeaseReply& lease) {
  const OpenStep at = lease.open();
  const bool dies = Chance(8);
  if (!dies && Chance(25)) {
    ++sleeps;
    std::this_thread::sleep_for(std::chrono::milliseconds(500));  // longer than the lease
  }
  std::vector<Pending> pending;
  std::vector<std::vector<float>> kept;  // until the pending calls are over
  for (const TensorSpec& tensor : counting_.tensors) {
    if (dies && Chance(counting_.tensors.size())) {
      ++deaths;
      return false;
    }
    if (lease.step == 1) {
      // Brings everything to zero: the first micro-batch subtracts what is there.
      kept.emplace_back(tensor.values());
      if (lease.micro_batch == 0) kept.back() = Pull(tensor, at.before());
      pending.push_back(tables_->PushWhole(at, lease.micro_batch, tensor, kept.back().data()));
      continue;
    }
    const Gradient gradient = counting_.Of(tensor, lease.step, lease.micro_batch);
    if (tensor.kind == TensorKind::kMemory) {
      const std::vector<float> ones(gradient.buckets.size(), 1.0f);
      kept.emplace_back(gradient.buckets.size());
      pending.push_back(
          tables_->Backward(at, lease.micro_batch, tensor,
                            static_cast<size_t>(counting_.config.tokens_per_micro_batch()),
                            IndexFrame(tensor, gradient.buckets), FrameOf(ones),
                            FrameOf(gradient.values), kept.back().data()));
    } else if (gradient.rows.empty()) {
      pending.push_back(tables_->PushWhole(at, lease.micro_batch, tensor, gradient.values.data()));
    } else {
      pending.push_back(
          tables_->Push(at, lease.micro_batch, tensor, gradient.rows, {}, gradient.values.data()));
    }
  }
  bool all = true;
  for (Pending& call : pending) all = call.Wait().ok() && all;
  if (dies) {  // all is said but that it is done
    ++deaths;
    return false;
  }
  if (!all) ++stale;
  if (all) (void)Call(MicroBatchDoneRequest{at, lease.micro_batch, 1});
  return true;
}

void CountingWorker::Commit(const LeaseReply& lease) {
  const OpenStep at = lease.open();
  if (auto prepared = tables_->Prepare(at); !prepared.ok()) return;
  if (auto ended = tables_->Finish(at, {.lr = 1}); !ended.ok()) {
    return;
  }
  (void)Call(StepEndedRequest{.at = at, .applied = true});
}

void CountingWorker::Recover(const LeaseReply& lease) {
  const FinishedStep start{lease.epoch, 0};
  if (!RollBack(*client_, start).ok()) return;
  (void)Call(RecoveredRequest{.to = start, .recovered = true, .incarnations = incarnations_});
}

TEST(Counting, EveryContributionCountsOnce) {
  const Counting counting;
  const TcpServers servers(2);
  const auto counts = std::make_shared<FaultCounts>();
  std::vector<std::thread> threads;
  std::atomic<uint64_t> next_seed{1};
  for (uint32_t i = 0; i < kWorkers; ++i) {
    threads.emplace_back([&] {
      while (
          !CountingWorker(counting, servers.addresses(), next_seed.fetch_add(1), counts).Live()) {
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CountingWorker reader(counting, servers.addresses(), next_seed.fetch_add(1), counts);
  ASSERT_TRUE(reader.Live());
  size_t contributions = 0;
  for (const TensorSpec& tensor : counting.tensors) {
    const std::vector<float> values = reader.Read(tensor);
    std::vector<int64_t> sums(values.size());
    for (uint64_t step = 2; step <= kSteps; ++step) {
      for (uint64_t m = 0; m < kMicroBatches; ++m) {
        contributions += counting.AddTo(tensor, step, m, sums);
      }
    }
    size_t wrong = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      wrong += values[i] == static_cast<float>(-sums[i]) ? 0 : 1;
    }
    EXPECT_EQ(wrong, 0u) << tensor.name;
    if (tensor.name != "embed.weight") continue;
    const auto columns = static_cast<size_t>(tensor.columns);
    const auto each = static_cast<float>(-kEpochs * counting.config.model.sequence);
    for (size_t id = 1; id + 1 < tensor.total_rows(); ++id) {
      ASSERT_EQ(values[id * columns], each) << id;
    }
    EXPECT_EQ(values[0] + values[(tensor.total_rows() - 1) * columns], each);
  }
  std::printf(
      "%zu contributions, %llu deaths, %llu late, %llu times too late; lost: %llu requests, "
      "%llu replies; twice: %llu requests\n",
      contributions, static_cast<unsigned long long>(CountingWorker::deaths),
      static_cast<unsigned long long>(CountingWorker::sleeps),
      static_cast<unsigned long long>(CountingWorker::stale),
      static_cast<unsigned long long>(counts->lost_requests),
      static_cast<unsigned long long>(counts->lost_replies),
      static_cast<unsigned long long>(counts->duplicated_requests));
  EXPECT_GT(CountingWorker::deaths, 0u);
  EXPECT_GT(counts->lost_requests, 0u);
  EXPECT_GT(counts->lost_replies, 0u);
  EXPECT_GT(counts->duplicated_requests, 0u);
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
  EXPECT_GE(contributions, 1'000'000u);
#endif
}

}  // namespace
}  // namespace mf
